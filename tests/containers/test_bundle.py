"""`ocifs bundle`: what it makes, what it refuses, and that a failure leaves nothing."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ocifs.mount.mountinfo import mount_at
from tests.cli.command import Ocifs
from tests.debian.view import view
from tests.images import Image, write_layout

pytestmark = pytest.mark.usefixtures("root", "runc")


def run_in(bundle: Path, *options: str, runtime: str = "runc") -> str:
    command = [runtime, "--root", str(bundle / "state"), "run", *options, "--bundle", str(bundle), bundle.name]
    return subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout


@pytest.mark.parametrize("rootfs", ["mount", "overlay", "tmpfs"])
def test_a_bundle_runs_is_listed_and_is_unmounted(ocifs: Ocifs, programs: Path, runtime: str, rootfs: str) -> None:
    bundle = ocifs.home / "with, odd:name\\ é"
    assert ocifs.output("bundle", "--no-tty", "--rootfs", rootfs, programs, bundle) == ""
    assert bundle.stat().st_mode & 0o777 == 0o700
    assert json.loads((bundle / "config.json").read_bytes())["root"] == (
        {"path": "rootfs", "readonly": True} if rootfs == "mount" else {"path": "rootfs"}
    )
    assert run_in(ocifs_named(bundle), runtime=runtime) == "started by the image\n"
    (listed,) = (each for each in json.loads(ocifs.output("mounts", "--json")) if each["bundle"] == str(bundle))
    assert (listed["state"], listed["mountpoint"]) == (
        "mounted",
        str(bundle / ("rootfs" if rootfs == "mount" else "lower")),
    )
    (line,) = (line for line in ocifs.output("mounts").splitlines() if f"{bundle} " in line)
    assert " bundle " in line
    ocifs.output("umount", bundle)
    assert ocifs.leftovers() == []
    assert os.listdir(bundle / "rootfs") == []


def ocifs_named(bundle: Path) -> Path:
    """Return the bundle by a name that is fit for the ID of a container."""
    link = bundle.parent / "box"
    link.symlink_to(bundle)
    return link


def test_an_overlay_keeps_what_was_written(ocifs: Ocifs, programs: Path) -> None:
    bundle = ocifs.home / "box"
    ocifs.output("bundle", "--no-tty", "--rootfs", "overlay", "--args", "sh -c 'echo x >/srv/x'", programs, bundle)
    run_in(bundle)
    ocifs.output("umount", bundle)
    assert (bundle / "upper/srv/x").read_text() == "x\n"
    ocifs.output("bundle", "--remount", programs, bundle)
    assert (bundle / "rootfs/srv/x").read_text() == "x\n"
    assert run_in(bundle) == ""
    again = ocifs.run("bundle", "--remount", programs, bundle)
    assert again == (7, b"", f"ocifs: {bundle} is mounted: `ocifs umount {bundle}` first\n")
    ocifs.output("umount", bundle)


@pytest.mark.parametrize("rootfs", ["mount", "tmpfs"])
def test_a_bundle_is_mounted_again(ocifs: Ocifs, programs: Path, rootfs: str) -> None:
    bundle = ocifs.home / "box"
    ocifs.output("bundle", "--no-tty", "--rootfs", rootfs, programs, bundle)
    ocifs.output("umount", bundle)
    ocifs.output("bundle", "--remount", programs, bundle)
    assert run_in(bundle) == "started by the image\n"
    ocifs.output("umount", bundle)


def test_what_cannot_be_mounted_again(ocifs: Ocifs, programs: Path) -> None:
    bundle = ocifs.home / "box"
    assert ocifs.complaint(3, "bundle", "--remount", programs, bundle) == (f"{bundle} was not made by `ocifs bundle`")
    ocifs.output("bundle", programs, bundle)
    ocifs.output("umount", bundle)
    other = write_layout(ocifs.home / "other", Image())
    assert f"is a bundle of the image {digest_of(programs)}, not of" in ocifs.complaint(
        3, "bundle", "--remount", other, bundle
    )
    assert "leave --env out" in ocifs.run("bundle", "--remount", "--env", "A=1", programs, bundle).err
    (bundle / "ocifs.json").write_text("{")
    assert ocifs.complaint(7, "bundle", "--remount", programs, bundle).endswith("cannot be read: make a new bundle")
    ocifs.output("bundle", "--rootfs", "copy", programs, ocifs.home / "copy")
    assert "there is nothing to mount" in ocifs.complaint(7, "bundle", "--remount", programs, ocifs.home / "copy")


def digest_of(layout: Path) -> str:
    (manifest,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    return str(manifest["digest"])


def test_a_tmpfs_does_not(ocifs: Ocifs, programs: Path) -> None:
    bundle = ocifs.home / "box"
    ocifs.output("bundle", "--no-tty", "--rootfs", "tmpfs", "--args", "sh -c 'echo x >/srv/x'", programs, bundle)
    run_in(bundle)
    assert (bundle / "rootfs/srv/x").read_text() == "x\n"
    ocifs.output("umount", bundle)
    assert sorted(os.listdir(bundle)) == ["config.json", "files", "lower", "ocifs.json", "rootfs", "state"]


def test_a_busy_bundle_stays_unless_lazily_unmounted(ocifs: Ocifs, programs: Path) -> None:
    bundle = ocifs.home / "box"
    ocifs.output("bundle", "--rootfs", "overlay", programs, bundle)
    with (bundle / "rootfs/etc/passwd").open("rb"):
        result = ocifs.run("umount", bundle)
        assert result.code == 7
        assert f"({os.getpid()})" in result.err
        assert mount_at(str(bundle / "lower"))
        ocifs.output("umount", "--lazy", bundle)
        assert mount_at(str(bundle / "rootfs")) is None
    assert ocifs.leftovers() == []


def test_rootless_writes_the_mappings(ocifs: Ocifs, programs: Path) -> None:
    bundle = ocifs.home / "box"
    ocifs.output("bundle", "--rootless", programs, bundle)
    linux = json.loads((bundle / "config.json").read_bytes())["linux"]
    assert linux["uidMappings"] == linux["gidMappings"] == [{"containerID": 0, "hostID": 0, "size": 1}]
    assert {"type": "user"} in linux["namespaces"]
    ocifs.output("umount", bundle)


def test_an_empty_directory_is_taken(ocifs: Ocifs, programs: Path) -> None:
    bundle = ocifs.mountpoint()
    ocifs.output("bundle", "--no-tty", programs, bundle)
    ocifs.output("umount", bundle)


def test_a_copied_rootfs_is_what_a_mounted_one_shows(ocifs: Ocifs, programs: Path, tmp_path: Path, root: None) -> None:
    ocifs.output("bundle", "--rootfs", "copy", programs, tmp_path / "copied")
    assert ocifs.leftovers() == []
    ocifs.output("bundle", programs, tmp_path / "mounted")
    seen = [view(tmp_path / name / "rootfs") for name in ("copied", "mounted")]
    ocifs.output("umount", tmp_path / "mounted")
    assert seen[0] == seen[1]
    assert '"readonly"' not in (tmp_path / "copied/config.json").read_text()


def test_refusals(ocifs: Ocifs, programs: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    assert "is not empty" in ocifs.complaint(7, "bundle", programs, full)
    assert "not a directory" in ocifs.complaint(7, "bundle", programs, full / "file")
    assert "make it first" in ocifs.complaint(7, "bundle", programs, tmp_path / "no/such")
    assert "no image" in ocifs.complaint(3, "bundle", f"{programs}:none", tmp_path / "new")
    assert "/etc/passwd" in ocifs.complaint(3, "bundle", "--user", "stranger", programs, tmp_path / "new")
    assert ocifs.run("bundle", "--args", "'", programs, tmp_path / "new").code == 2
    assert sorted(path.name for path in full.iterdir()) == ["file"]
    assert not (tmp_path / "new").exists()


def test_an_existing_bundle_is_left_alone(ocifs: Ocifs, programs: Path) -> None:
    bundle = ocifs.home / "box"
    ocifs.output("bundle", "--no-tty", programs, bundle)
    result = ocifs.run("bundle", programs, bundle)
    assert (result.code, result.err.count("\n")) == (7, 1)
    assert "already holds a bundle" in result.err
    assert run_in(bundle) == "started by the image\n"
    ocifs.output("umount", bundle)


def test_a_mount_that_fails_leaves_nothing_and_a_rerun_works(ocifs: Ocifs, programs: Path) -> None:
    bundle = ocifs.home / "box"
    before = sorted(os.listdir(ocifs.home))
    assert "log" in ocifs.complaint(7, "bundle", "--log", ocifs.home / "no/such", programs, bundle)
    assert set(os.listdir(ocifs.home)) - set(before) == {"cache"}
    ocifs.output("bundle", programs, bundle)
    ocifs.output("umount", bundle)


def test_a_full_disk_leaves_nothing(ocifs: Ocifs, programs: Path) -> None:
    disk = ocifs.mountpoint()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", disk], check=True)
    try:
        (disk / "fill").write_bytes(bytes(4096))
        result = ocifs.run("bundle", programs, disk / "box")
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert "No space left on device" in result.err
        assert os.listdir(disk) == ["fill"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_an_overlay_that_cannot_be_is_one_line(ocifs: Ocifs, programs: Path) -> None:
    ocifs.output("index", programs)
    lower = ocifs.home / "lower-of-all"
    lower.mkdir()
    outer = ocifs.mountpoint()
    for name in ("upper", "work"):
        (ocifs.home / name).mkdir()
    options = f"lowerdir={lower},upperdir={ocifs.home}/upper,workdir={ocifs.home}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", outer], check=True)
    try:  # overlayfs does not take one of its kind for what is written
        result = ocifs.run("bundle", "--rootfs", "overlay", programs, outer / "box")
        assert (result.code, result.err.count("\n")) == (7, 1)
        assert "cannot mount overlay" in result.err
        assert os.listdir(outer) == []
    finally:
        subprocess.run(["umount", outer], check=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_at_any_moment_it_is_whole_or_not_there(
    ocifs: Ocifs, programs: Path, number: signal.Signals
) -> None:
    ocifs.output("index", programs)
    before = set(os.listdir(ocifs.home))
    for delay in (0.1, 0.2, 0.3, 0.4):
        bundle = ocifs.home / "box"
        with ocifs.start("bundle", "--rootfs", "overlay", programs, bundle) as process:
            time.sleep(delay)
            process.send_signal(number)
            process.communicate(timeout=30)
        assert process.returncode in {0, -number, 128 + number}
        if bundle.exists():  # the signal came too late
            assert (bundle / "rootfs/etc/passwd").exists()
            ocifs.output("umount", bundle)
            subprocess.run(["rm", "-rf", "--one-file-system", bundle], check=True)
        assert ocifs.leftovers() == []
        assert set(os.listdir(ocifs.home)) == before
