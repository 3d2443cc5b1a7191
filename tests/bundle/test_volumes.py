"""What the volumes of an image need, by what kind of rootfs it is."""

from pathlib import Path

import pytest

from ocifs.bundle.volumes import Volumes, find_volumes
from ocifs.errors import InvalidImageError, LimitError, UnsupportedError
from ocifs.image.opening import open_image
from ocifs.limits import Limits
from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, header, symlink, tar

_MEMBERS = [
    directory(b"data"),
    file(b"data/x", b"12345"),
    directory(b"data/below"),
    header(b"data/again", flag=b"1", link=b"data/x"),
    directory(b"data-2"),
    symlink(b"link", b"/data"),
    file(b"file"),
    symlink(b"dangling", b"/nowhere"),
]


def found(
    where: Path, paths: list[str], *, readonly: bool, limits: Limits | None = None, warnings: list[str] | None = None
) -> Volumes:
    """Return what is found; without `warnings` there are none."""
    told: list[str] = []
    with open_image(write_layout(where / "image", Image((Layer(tar(_MEMBERS)),)))) as image:
        volumes = find_volumes(paths, image.rootfs, limits or Limits(), told.append, readonly=readonly)
    assert told == (warnings or [])
    return volumes


@pytest.mark.parametrize(
    ("paths", "mounted"),
    [
        ([], []),
        (["/data"], [("/data", "volumes/0")]),
        (["/new", "/data/"], [("/data", "volumes/0"), ("/new", "volumes/1")]),
        (["/data", "/data/", "//data", "/data/."], [("/data", "volumes/0")]),
        (["/data/below", "/data"], [("/data", "volumes/0")]),
        (["/data/new", "/data"], [("/data", "volumes/0"), ("/data/new", "volumes/1")]),
        (["/data/below", "/data-2"], [("/data/below", "volumes/0"), ("/data-2", "volumes/1")]),
        (["/data-2", "/data", "/data/below"], [("/data", "volumes/0"), ("/data-2", "volumes/1")]),
    ],
)
def test_a_read_only_rootfs_has_them_mounted(tmp_path: Path, paths: list[str], mounted: list[tuple[str, str]]) -> None:
    """What lies in a volume already is part of it, so no byte is copied twice."""
    mounts = found(tmp_path, paths, readonly=True).mounts()
    assert [(mount.destination, mount.source) for mount in mounts] == mounted
    assert {(mount.type, mount.options) for mount in mounts} <= {
        ("bind", ("rbind", "rprivate", "rw", "nosuid", "nodev"))
    }


@pytest.mark.parametrize(
    ("paths", "missing"),
    [
        (["/data", "/link", "/data/below"], []),
        (["/data", "/new/er"], ["/new/er"]),
        (["/link/new"], ["/data/new"]),
        (["/dangling"], ["/nowhere"]),
    ],
)
def test_a_rootfs_that_can_be_written_lacks_missing_ones_only(
    tmp_path: Path, paths: list[str], missing: list[str]
) -> None:
    volumes = found(tmp_path, paths, readonly=False)
    assert volumes.mounts() == ()
    assert [b"/" + b"/".join(volume.names) for volume in volumes.missing] == [each.encode() for each in missing]


@pytest.mark.parametrize("readonly", [True, False])
@pytest.mark.parametrize(
    ("path", "warning"),
    [
        ("/", "volume / is skipped: it would hide the whole image"),
        ("/proc", "volume /proc is skipped: the runtime mounts a file system of its own there"),
        ("/sys/fs/cgroup", "volume /sys/fs/cgroup is skipped: the runtime mounts a file system of its own there"),
        ("/dev/shm/x", "volume /dev/shm/x is skipped: the runtime mounts a file system of its own there"),
    ],
)
def test_volumes_that_cannot_be_are_skipped(tmp_path: Path, path: str, warning: str, readonly: bool) -> None:
    assert found(tmp_path, [path], readonly=readonly, warnings=[warning]) == Volumes()


@pytest.mark.parametrize(
    ("path", "taken"), [("data", "/data"), ("../data", "/data"), ("/x/../data", "/data"), ("./data/", "/data")]
)
def test_a_relative_or_escaping_volume_is_taken_from_the_root(tmp_path: Path, path: str, taken: str) -> None:
    warning = f"volume '{path}' is not an absolute path without '..': using {taken}"
    (mount,) = found(tmp_path, [path], readonly=True, warnings=[warning]).mounts()
    assert mount.destination == taken


@pytest.mark.parametrize("path", ["", "..", "/data/../.."])
def test_a_volume_that_comes_to_be_the_root_is_skipped(tmp_path: Path, path: str) -> None:
    warnings = [
        f"volume '{path}' is not an absolute path without '..': using /",
        "volume / is skipped: it would hide the whole image",
    ]
    assert found(tmp_path, [path], readonly=True, warnings=warnings) == Volumes()


@pytest.mark.parametrize("readonly", [True, False])
@pytest.mark.parametrize("path", ["/file", "/file/below", "/link/x"])
def test_a_volume_that_is_a_file_is_refused(tmp_path: Path, path: str, readonly: bool) -> None:
    with pytest.raises(UnsupportedError, match="is not a directory in the image"):
        found(tmp_path, [path], readonly=readonly)


@pytest.mark.parametrize("path", ["/link", "/link/below"])
def test_a_volume_behind_a_symlink_takes_a_rootfs_that_can_be_written(tmp_path: Path, path: str) -> None:
    with pytest.raises(UnsupportedError, match=r"behind a symlink of the image.*use --rootfs overlay or tmpfs"):
        found(tmp_path / "readonly", [path], readonly=True)
    assert found(tmp_path / "writable", [path], readonly=False) == Volumes()


def test_a_nul_character_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidImageError, match="NUL"):
        found(tmp_path, ["/a\0b"], readonly=True)


def test_what_is_copied_is_bounded(tmp_path: Path) -> None:
    """A file with two names is copied once."""
    found(tmp_path / "enough", ["/data"], readonly=True, limits=Limits(volume_size=5, volumes=1))
    with pytest.raises(LimitError, match="volume-size=4;"):
        found(tmp_path / "size", ["/data"], readonly=True, limits=Limits(volume_size=4))
    with pytest.raises(LimitError, match="volumes=1;"):
        found(tmp_path / "number", ["/data", "/data-2"], readonly=True, limits=Limits(volumes=1))
    found(tmp_path / "writable", ["/data"], readonly=False, limits=Limits(volume_size=4))
