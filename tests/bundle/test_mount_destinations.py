"""Where a runtime mounts and begins: looked up in the image, or in a rootfs that a container has written to."""

import json
import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from ocifs.bundle.mount_destinations import check_destinations, check_remounted, names_of, walk_down
from ocifs.bundle.runtime_spec import Mount, Spec, default_spec
from ocifs.errors import MountError, NotFoundError, UnsupportedError
from ocifs.image.opening import open_image
from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, symlink, tar

_TOP = ("dev", "proc", "sys")


def checked(where: Path, members: list[bytes], *, readonly: bool, cwd: str = "/", mounts: tuple[str, ...] = ()) -> Spec:
    """Check a spec with more mounts, for an image of these members."""
    spec = default_spec(cgroup2=False)
    spec = replace(
        spec,
        process=replace(spec.process, cwd=cwd),
        root=replace(spec.root, readonly=readonly),
        mounts=spec.mounts + tuple(Mount(destination=each, type="bind", source="x") for each in mounts),
    )
    with open_image(write_layout(where / "image", Image((Layer(tar(members)),)))) as image:
        return check_destinations(spec, image.rootfs)


def top(*without: str) -> list[bytes]:
    return [directory(name.encode()) for name in _TOP if name not in without]


@pytest.mark.parametrize("readonly", [True, False])
@pytest.mark.parametrize(
    ("members", "named"),
    [
        ([*top("dev"), symlink(b"dev", b"/srv"), directory(b"srv")], "/dev is a symlink"),
        ([*top("dev"), symlink(b"dev", b"srv"), directory(b"srv")], "/dev is a symlink"),
        ([*top("dev"), symlink(b"dev", b"../../srv"), directory(b"srv")], "/dev is a symlink"),
        ([*top("dev"), symlink(b"dev", b"/nowhere")], "/dev is a symlink"),
        ([*top("dev"), symlink(b"dev", b"dev")], "/dev is a symlink"),
        ([*top("proc"), symlink(b"proc", b"sys")], "/proc is a symlink"),
        ([*top("sys"), symlink(b"sys", b"proc")], "/sys is a symlink"),
        ([*top("sys"), file(b"sys")], "/sys is not a directory"),
        ([*top(), symlink(b"dev/pts", b"/srv"), directory(b"srv")], "/dev/pts is a symlink"),
        ([*top(), symlink(b"dev/shm", b"/srv"), directory(b"srv")], "/dev/shm is a symlink"),
        ([*top(), file(b"dev/mqueue")], "/dev/mqueue is not a directory"),
        ([*top(), symlink(b"sys/fs", b"/srv"), directory(b"srv/cgroup")], "/sys/fs is a symlink"),
        ([*top(), symlink(b"sys/fs/cgroup", b"/srv"), directory(b"srv")], "/sys/fs/cgroup is a symlink"),
        ([*top(), symlink(b"a", b"d"), directory(b"d/b/c")], "/a is a symlink"),
        ([*top(), symlink(b"a/b", b"/d"), directory(b"d/c")], "/a/b is a symlink"),
        ([*top(), symlink(b"a/b/c", b"/d"), directory(b"d")], "/a/b/c is a symlink"),
        ([*top(), file(b"a/b")], "/a/b is not a directory"),
    ],
)
def test_a_symlink_or_a_file_on_the_way_to_a_mount(
    tmp_path: Path, members: list[bytes], named: str, readonly: bool
) -> None:
    with pytest.raises(UnsupportedError, match=f"^{named} in the image"):
        checked(tmp_path, members, readonly=readonly, mounts=("/a/b/c",))


@pytest.mark.parametrize(
    ("members", "cwd", "mounts", "complete"),
    [
        (top(), "/", (), True),
        (top("proc"), "/", (), False),
        ([], "/", (), False),
        (top(), "/srv", (), False),
        ([*top(), directory(b"srv")], "/srv", (), True),
        (top(), "/", ("/data",), False),
        ([*top(), directory(b"data")], "/", ("/data", "/data/below"), True),
        ([*top(), directory(b"data")], "/data/below", ("/data",), True),
        ([*top(), directory(b"data"), symlink(b"work", b"data/below")], "/work", ("/data",), True),
        ([*top(), symlink(b"srv", b"/missing")], "/srv", (), False),
    ],
)
def test_what_is_missing_must_be_made_by_the_runtime(
    tmp_path: Path, members: list[bytes], cwd: str, mounts: tuple[str, ...], complete: bool
) -> None:
    """It can, unless the rootfs is read-only; below another mount it can in any case."""
    checked(tmp_path / "writable", members, readonly=False, cwd=cwd, mounts=mounts)
    if complete:
        checked(tmp_path / "readonly", members, readonly=True, cwd=cwd, mounts=mounts)
    else:
        with pytest.raises(UnsupportedError, match="use --rootfs overlay or tmpfs"):
            checked(tmp_path / "readonly", members, readonly=True, cwd=cwd, mounts=mounts)


@pytest.mark.parametrize(
    ("members", "cwd", "resolved"),
    [
        ([], "/", "/"),
        ([], "/proc", "/proc"),
        ([], "/dev/shm", "/dev/shm"),
        ([], "/dev", "/dev"),
        ([], "/sys/class", "/sys/class"),
        ([symlink(b"work", b"/srv/app"), directory(b"srv/app")], "/work", "/srv/app"),
        ([symlink(b"work", b"srv"), directory(b"srv")], "/work/new", "/srv/new"),
        ([symlink(b"work", b"/nowhere")], "/work", "/nowhere"),
        ([symlink(b"work", b"../../../etc")], "/work", "/etc"),
        ([symlink(b"work", b"/proc/self/fd/7/../../../../srv")], "/work", "/srv"),
    ],
)
def test_the_working_directory_is_resolved_in_the_image(
    tmp_path: Path, members: list[bytes], cwd: str, resolved: str
) -> None:
    assert checked(tmp_path, [*top(), *members], readonly=False, cwd=cwd).process.cwd == resolved


@pytest.mark.parametrize(
    ("members", "cwd"),
    [
        ([], "/proc/self/fd/7"),
        ([], "/proc/self/cwd"),
        ([], "/proc/1/root"),
        ([], "/dev/fd/7"),
        ([], "/dev/stdin"),
        ([symlink(b"work", b"/proc/self/fd/7")], "/work"),
        ([symlink(b"work", b"/proc/self/fd")], "/work/7"),
        ([symlink(b"a", b"b"), symlink(b"b", b"/proc")], "/a/self/cwd"),
        ([symlink(b"work", b"dev/fd/7")], "/work"),
        ([symlink(b"proc/self", b"/srv"), directory(b"srv/fd/7"), symlink(b"work", b"/proc/x")], "/work"),
    ],
)
def test_a_working_directory_by_way_of_the_runtime_s_open_files(tmp_path: Path, members: list[bytes], cwd: str) -> None:
    with pytest.raises(UnsupportedError, match=r"leads to /(proc|dev)/.*choose another with --workdir"):
        checked(tmp_path, [*top(), *members], readonly=False, cwd=cwd)


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ([symlink(b"work", b"work")], NotFoundError),
        ([file(b"work")], UnsupportedError),
        ([symlink(b"work", b"/proc/self/fd/7/../../../../\xff")], UnsupportedError),
    ],
)
def test_a_working_directory_that_is_none(tmp_path: Path, members: list[bytes], error: type[Exception]) -> None:
    with pytest.raises(error, match="work"):
        checked(tmp_path, [*top(), *members], readonly=False, cwd="/work")


def test_a_kept_rootfs_is_walked_without_following_anything(tmp_path: Path) -> None:
    rootfs = tmp_path / "rootfs"
    (rootfs / "dev").mkdir(parents=True)
    config = {"process": {"cwd": "/a/b"}, "mounts": [{"destination": "/dev"}, {"destination": "/dev/pts"}]}
    (tmp_path / "config.json").write_text(json.dumps(config | {"other": 1}))
    check_remounted(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    for place in ("a", "dev/pts"):
        (rootfs / place).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(MountError, match=f"^/{place} in .* is not a directory"):
            check_remounted(tmp_path)
        (rootfs / place).unlink()
    (rootfs / "dev/pts").touch()  # a file may be mounted on a file
    check_remounted(tmp_path)
    (rootfs / "a").touch()
    with pytest.raises(MountError, match=r"/a in .* is not a directory"):
        check_remounted(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"process": {}}'])
def test_a_kept_bundle_without_a_config_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(MountError, match="make a new bundle"):
        check_remounted(tmp_path)


def test_missing_directories_are_made_open_to_all_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        walk_down(tmp_path, names_of("/a/b"), make=True)
        walk_down(tmp_path, names_of("/a/b"), make=True)
    finally:
        os.umask(before)
    assert [(tmp_path / each).stat().st_mode & 0o777 for each in ("a", "a/b")] == [0o755, 0o755]
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(MountError, match="/link in"):
        walk_down(tmp_path, names_of("/link/c"), make=True)
    assert os.listdir(tmp_path / "a") == ["b"]
