"""Volumes as they are seen in a container: as podman has them, whatever the rootfs."""

import os
import shutil
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.containers.conftest import image_of_programs
from tests.containers.test_bundle import run_in
from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, symlink, tar

KINDS = ["mount", "overlay", "tmpfs", "copy"]

_NOBODY = 65534
_SCRIPT = """\
stat -c '%u %g %a' /data /data/below/y && cat /data/x /data/below/y && ls -l /data/link &&
/data/true && echo new >/data/new && echo y2 >>/data/below/y && cat /data/new /data/below/y"""
_SEEN = ["65534 65534 700", "65534 65534 640", "x", "y", "new", "y", "y2"]


@pytest.fixture(scope="session")
def with_volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with a volume that belongs to its user, and has a program in it."""
    theirs = {"uid": _NOBODY, "gid": _NOBODY}
    program = Path(shutil.which("true") or "").read_bytes()
    members = [
        directory(b"data", mode=0o700, **theirs),
        file(b"data/x", b"x\n", mode=0o600, **theirs),
        file(b"data/true", program, mode=0o755),
        directory(b"data/below", **theirs),
        file(b"data/below/y", b"y\n", mode=0o640, **theirs),
        symlink(b"data/link", b"/etc/passwd"),
    ]
    config = {
        "User": str(_NOBODY),
        "Env": ["PATH=/bin"],
        "Cmd": ["sh", "-c", _SCRIPT],
        "Volumes": {"/data": {}, "/data/below": None},
    }
    image = Image((*image_of_programs().layers, Layer(tar(members))), config={"config": config})
    return write_layout(tmp_path_factory.mktemp("volume") / "image", image)


def seen(output: str) -> list[str]:
    return [line for line in output.splitlines() if "link" not in line]


@pytest.mark.parametrize("rootfs", KINDS)
def test_the_image_s_user_finds_and_writes_its_own(
    ocifs: Ocifs, with_volume: Path, rootfs: str, root: None, runc: None
) -> None:
    assert seen(ocifs.output("run", "--rootfs", rootfs, with_volume)) == _SEEN
    assert ocifs.leftovers() == []
    assert os.listdir(ocifs.temporary) == []


def test_either_runtime_mounts_them_and_umount_removes_what_is_kept(
    ocifs: Ocifs, with_volume: Path, runtime: str, root: None
) -> None:
    result = ocifs.run("run", "--keep", "--read-only", "--runtime", runtime, with_volume)
    assert seen(result.text) == _SEEN
    (bundle,) = ocifs.temporary.iterdir()
    assert (bundle / "volumes/0/new").read_text() == "new\n"
    ocifs.output("umount", bundle)
    assert not bundle.exists()


@pytest.mark.parametrize("rootfs", ["mount", "overlay"])
def test_a_volume_is_kept_in_its_bundle(ocifs: Ocifs, with_volume: Path, rootfs: str, root: None, runc: None) -> None:
    bundle = ocifs.home / "box"
    ocifs.output("bundle", "--no-tty", "--rootfs", rootfs, with_volume, bundle)
    assert seen(run_in(bundle)) == _SEEN
    ocifs.output("umount", bundle)
    assert ocifs.leftovers() == []
    ocifs.output("bundle", "--remount", with_volume, bundle)
    assert seen(run_in(bundle)) == [*_SEEN[:4], "y2", *_SEEN[4:], "y2"]
    ocifs.output("umount", bundle)


def test_with_a_tmpfs_it_is_thrown_away(ocifs: Ocifs, with_volume: Path, root: None, runc: None) -> None:
    bundle = ocifs.home / "box"
    ocifs.output("bundle", "--no-tty", "--rootfs", "tmpfs", with_volume, bundle)
    for _ in range(2):
        assert seen(run_in(bundle)) == _SEEN
        ocifs.output("umount", bundle)
        ocifs.output("bundle", "--remount", with_volume, bundle)
    ocifs.output("umount", bundle)


@pytest.fixture(scope="session")
def without_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image whose volume is not there, in a volume that is."""
    config = {"Cmd": ["true"], "Env": ["PATH=/bin"], "User": "web", "Volumes": {"/srv": {}, "/srv/a/b": {}}}
    image = Image(image_of_programs().layers, config={"config": config})
    return write_layout(tmp_path_factory.mktemp("missing") / "image", image)


@pytest.mark.parametrize("rootfs", KINDS)
def test_a_volume_that_the_image_lacks_belongs_to_root(
    ocifs: Ocifs, without_directory: Path, rootfs: str, root: None, runc: None
) -> None:
    script = "stat -c '%u %g %a' /srv/a/b; echo x >/srv/a/b/x; cat /srv/a/b/x"
    arguments = ["--rootfs", rootfs, "--user", "0", str(without_directory), "--", "sh", "-c", script]
    assert ocifs.output("run", *arguments) == "0 0 755\nx\n"


def test_a_missing_volume_is_made_anew_in_a_new_tmpfs(
    ocifs: Ocifs, without_directory: Path, root: None, runc: None
) -> None:
    bundle = ocifs.home / "box"
    ocifs.output("bundle", "--rootfs", "tmpfs", without_directory, bundle)
    ocifs.output("umount", bundle)
    ocifs.output("bundle", "--remount", without_directory, bundle)
    assert (bundle / "rootfs/srv/a/b").stat().st_mode & 0o777 == 0o755
    ocifs.output("umount", bundle)


def test_what_is_copied_is_bounded(ocifs: Ocifs, with_volume: Path, root: None, runc: None) -> None:
    for verb, target in (("run", []), ("bundle", [ocifs.home / "box"])):
        complaint = ocifs.complaint(6, verb, "--read-only", "--limit", "volume-size=100", with_volume, *target)
        assert "over the limit volume-size=100" in complaint
    assert not (ocifs.home / "box").exists()
    assert os.listdir(ocifs.temporary) == []


@pytest.mark.parametrize("rootfs", KINDS)
def test_a_rootless_container_has_them_as_well(user: Ocifs, with_volume: Path, runc: None, rootfs: str) -> None:
    if rootfs in {"overlay", "tmpfs"} and shutil.which("fuse-overlayfs") is None:
        pytest.skip("fuse-overlayfs is missing")
    theirs = user.home / "image"
    shutil.copytree(with_volume, theirs)
    output = user.run("run", "--rootfs", rootfs, "--user", "0", theirs)
    assert seen(output.text) == ["0 0 700", "0 0 640", *_SEEN[2:]], output
    assert user.leftovers() == []
    assert os.listdir(user.temporary) == []
