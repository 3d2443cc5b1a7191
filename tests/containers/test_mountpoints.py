"""Images that would have a runtime write outside of the container are refused before any runtime is started.

The symlinks lead to a directory of this machine, which the image has as well, so that a lookup in the image succeeds.
`tests/bundle/test_places.py` has the cases; here real runtimes are kept from real directories.
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.containers.conftest import image_of_programs
from tests.images import Image, Json, Layer, write_layout
from tests.tars import directory, symlink, tar

pytestmark = pytest.mark.usefixtures("root", "runc")

KINDS = ["mount", "overlay", "tmpfs", "copy"]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the host with a file that runc would replace by a symlink."""
    made = tmp_path / "outside"
    made.mkdir()
    (made / "ptmx").write_text("the host's\n")
    return made


def is_untouched(outside: Path) -> bool:
    return os.listdir(outside) == ["ptmx"] and (outside / "ptmx").read_text() == "the host's\n"


def bare(target: Path, members: list[bytes], config: Json | None = None, *, dev: bool = True) -> Path:
    """Write an image without programs: the runtime fails at the very end, when all is mounted."""
    names = [b"proc", b"srv", b"sys"] + [b"dev"] * dev
    layer = [directory(name) for name in names] + members
    return write_layout(target, Image((Layer(tar(layer)),), config={"config": {"Cmd": ["/x"]} | (config or {})}))


def link(name: bytes, outside: Path) -> list[bytes]:
    """Return a symlink to the directory `outside`, and that directory in the image."""
    return [symlink(name, os.fsencode(outside)), directory(os.fsencode(outside).lstrip(b"/"))]


@pytest.mark.parametrize("rootfs", KINDS)
def test_a_symlink_that_the_runtime_would_mount_on(ocifs: Ocifs, tmp_path: Path, outside: Path, rootfs: str) -> None:
    image = bare(tmp_path / "image", link(b"dev", outside), dev=False)
    for verb, target in (("run", []), ("bundle", [tmp_path / "box"])):
        complaint = ocifs.complaint(5, verb, "--rootfs", rootfs, image, *target)
        assert complaint.startswith("/dev is a symlink in the image")
    assert is_untouched(outside)
    assert not (tmp_path / "box").exists()


def test_without_the_check_the_runtime_writes_there(ocifs: Ocifs, tmp_path: Path, outside: Path) -> None:
    """What the others are about: runc 1.1.5 does it; where this runc does not, they show nothing of runtimes."""
    bundle = tmp_path / "box"
    ocifs.output("bundle", "--no-tty", "--rootfs", "copy", bare(tmp_path / "image", []), bundle)
    (bundle / "rootfs/dev").rmdir()
    (bundle / "rootfs/dev").symlink_to(outside)
    (bundle / "rootfs" / outside.relative_to("/")).mkdir(parents=True)
    command = ["runc", "--root", str(bundle / "state"), "run", "--bundle", str(bundle), "box"]
    assert subprocess.run(command, capture_output=True, check=False).returncode
    if is_untouched(outside):
        pytest.skip("this runc follows no such symlink")
    assert (outside / "ptmx").is_symlink()


def test_a_volume_behind_a_symlink_is_not_mounted(ocifs: Ocifs, tmp_path: Path, outside: Path) -> None:
    members = link(b"link", outside)
    config: Json = {"config": {"Env": ["PATH=/bin"], "Volumes": {"/link": {}, "/link/new": {}}}}
    programs = image_of_programs()
    image = write_layout(tmp_path / "image", Image((*programs.layers, Layer(tar(members))), config=config))
    assert ocifs.complaint(5, "run", "--read-only", image, "true").startswith("volume /link lies behind a symlink")
    script = f"echo x >/link/x && echo y >/link/new/y && cat {outside}/x {outside}/new/y"
    for rootfs in KINDS[1:]:
        assert ocifs.output("run", "--rootfs", rootfs, image, "--", "sh", "-c", script) == "x\ny\n"
    assert is_untouched(outside)


def test_what_the_user_mounts_behind_a_symlink_is_inside_the_container(
    ocifs: Ocifs, tmp_path: Path, outside: Path
) -> None:
    """The user names a destination in the container: the image cannot make it one on the host."""
    image = write_layout(tmp_path / "image", Image((*image_of_programs().layers, Layer(tar(link(b"link", outside))))))
    shared = tmp_path / "shared"
    shared.mkdir()
    options = ["-v", f"{shared}:/link/new", "--tmpfs", "/link/ptmx", "-e", "PATH=/bin"]
    script = f"echo x >/link/new/x; echo y >{outside}/ptmx/y; cat {outside}/new/x /link/ptmx/y"
    assert ocifs.output("run", *options, image, "sh", "-c", script) == "x\ny\n"
    assert (shared / "x").read_text() == "x\n"
    assert is_untouched(outside)


def test_a_working_directory_that_is_an_open_file_of_the_runtime(ocifs: Ocifs, tmp_path: Path) -> None:
    """CVE-2024-21626."""
    image = bare(tmp_path / "image", [symlink(b"work", b"/proc/self/fd/7")], {"WorkingDir": "/work"})
    complaint = ocifs.complaint(5, "run", "--rootfs", "overlay", image)
    assert complaint.startswith("working directory /work leads to /proc/self/fd/7")


@pytest.mark.parametrize("what", ["dev", "srv"])
def test_what_a_container_has_put_into_a_kept_bundle(ocifs: Ocifs, tmp_path: Path, outside: Path, what: str) -> None:
    """The image is no longer all of the rootfs, so `--remount` looks at the rootfs itself."""
    image = bare(tmp_path / "image", [])
    bundle = ocifs.home / "box"
    ocifs.output("bundle", "--rootfs", "overlay", "--cwd", "/srv", image, bundle)
    (bundle / "rootfs" / what).rmdir()
    (bundle / "rootfs" / what).symlink_to(outside)
    ocifs.output("umount", bundle)
    complaint = ocifs.complaint(7, "bundle", "--remount", image, bundle)
    assert complaint.startswith(f"/{what} in {bundle}/rootfs is not a directory")
    (bundle / "upper" / what).unlink()
    ocifs.output("bundle", "--remount", image, bundle)
    ocifs.output("umount", bundle)
    assert is_untouched(outside)
