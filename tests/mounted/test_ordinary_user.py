"""A user who is not root has all of it, through fusermount3."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.images import Image, Layer, write_layout
from tests.mounted.posix_image import BIG, image

_ALLOWED = "user_allow_other" in {
    line.strip() for path in [Path("/etc/fuse.conf")] if path.exists() for line in path.read_text().splitlines()
}


@pytest.fixture
def theirs(user: Ocifs) -> Path:
    """The image with one of everything, where the user may read it."""
    return image(user.home / "image")


def as_user(user: Ocifs, *command: str) -> "subprocess.CompletedProcess[str]":
    run = [*user.become, *command]
    return subprocess.run(run, capture_output=True, text=True, errors="backslashreplace", check=False)


def test_mounts_lists_reads_and_unmounts(user: Ocifs, theirs: Path) -> None:
    with user.mounted(theirs) as mountpoint:
        assert "regular" in as_user(user, "ls", str(mountpoint)).stdout.split()
        assert as_user(user, "cat", f"{mountpoint}/open").stdout == "for all"
        assert as_user(user, "cksum", f"{mountpoint}/big").stdout.split()[1] == str(len(BIG))
        assert str(mountpoint) in user.output("mounts")
        user.output("umount", mountpoint)
        assert user.leftovers() == []


def test_sees_what_the_modes_allow(user: Ocifs, theirs: Path) -> None:
    with user.mounted(theirs) as mountpoint:
        assert as_user(user, "cat", f"{mountpoint}/secret").stderr.endswith("Permission denied\n")
        assert as_user(user, "ls", f"{mountpoint}/dir").stderr.endswith("Permission denied\n")
        assert as_user(user, "test", "-x", f"{mountpoint}/script").returncode == 0
        assert as_user(user, "test", "-x", f"{mountpoint}/open").returncode == 1
        assert as_user(user, "test", "-w", f"{mountpoint}/sticky").returncode == 1


def test_acls_count(ocifs: Ocifs, user: Ocifs, theirs: Path, root: None) -> None:
    with ocifs.mounted(theirs, "--allow-other", at=user.mountpoint()) as mountpoint:
        reader = ["setpriv", "--reuid=4711", "--regid=4711", "--clear-groups", "--", "cat", f"{mountpoint}/acl"]
        assert subprocess.run(reader, capture_output=True, text=True, check=True).stdout == "acl"
        assert as_user(user, "cat", f"{mountpoint}/acl").stderr.endswith("Permission denied\n")


def test_other_users_do_not_see_the_mount(user: Ocifs, theirs: Path, root: None) -> None:
    with user.mounted(theirs) as mountpoint, pytest.raises(PermissionError):
        os.listdir(mountpoint)


def test_a_mount_of_root_s_is_open_as_far_as_the_modes_allow_with_erofs_only(
    ocifs: Ocifs, engine: str, user: Ocifs, theirs: Path, root: None
) -> None:
    with ocifs.mounted(theirs, at=user.mountpoint()) as mountpoint:
        seen = [as_user(user, "cat", f"{mountpoint}/{name}") for name in ("open", "secret")]
    assert [run.stdout for run in seen] == (["for all", ""] if engine == "erofs" else ["", ""])
    assert all(run.stderr.endswith("Permission denied\n") for run in seen if not run.stdout)


def test_an_ordinary_user_gets_fuse(user: Ocifs, theirs: Path, root: None) -> None:
    mountpoint = user.mountpoint()
    why = "cannot mount EROFS: only root on the host can, with CAP_SYS_ADMIN"
    complaint = user.complaint(7, "mount", "--engine", "erofs", theirs, mountpoint)
    assert complaint == f"{why}: use --engine fuse instead"
    with user.mounted(theirs, at=mountpoint):
        assert f"fuse ({why})\n" in user.output("mounts")


@pytest.mark.skipif(_ALLOWED, reason="/etc/fuse.conf has user_allow_other")
def test_allow_other_is_refused_unless_fuse_conf_allows_it(user: Ocifs, theirs: Path) -> None:
    complaint = user.complaint(7, "mount", "--allow-other", theirs, user.mountpoint())
    assert "user_allow_other" in complaint


@pytest.mark.parametrize("option", ["--suid", "--dev"])
def test_root_s_options_are_refused(user: Ocifs, theirs: Path, option: str) -> None:
    result = user.run("mount", option, theirs, user.mountpoint())
    assert result.code == 2
    assert "root only" in result.err


def test_another_user_s_mountpoint_is_refused(user: Ocifs, theirs: Path, root: None) -> None:
    mountpoint = user.mountpoint()
    os.chown(mountpoint, 0, 0)
    mountpoint.chmod(0o755)
    assert "of your own" in user.complaint(7, "mount", theirs, mountpoint)


def test_another_user_s_mount_is_not_unmounted(user: Ocifs, theirs: Path, ocifs: Ocifs, root: None) -> None:
    mountpoint = user.mountpoint()
    assert ocifs.run("mount", theirs, mountpoint).code == 0
    try:
        result = user.run("umount", mountpoint)
        assert result.code == 7
        assert result.err.count("\n") == 1
        assert (mountpoint / "open").read_text() == "for all"
    finally:
        ocifs.output("umount", mountpoint)


def test_an_image_closed_to_the_user_is_named(user: Ocifs, root: None) -> None:
    closed = write_layout(user.home / "closed", Image(layers=(Layer(),)))
    closed.chmod(0o700)
    assert str(closed) in user.complaint(3, "mount", closed, user.mountpoint())


def test_another_user_s_cache_is_not_trusted(user: Ocifs, theirs: Path, root: None) -> None:
    foreign = user.home / "foreign"
    foreign.mkdir(mode=0o777)
    mountpoint = user.mountpoint()
    result = user.run("mount", "--cache-dir", foreign, theirs, mountpoint)
    try:
        assert (result.code, result.out) == (0, b"")
        assert result.err.startswith(f"ocifs: warning: cache directory {foreign}: ")
        assert result.err.count("\n") == 1
        assert as_user(user, "cat", f"{mountpoint}/open").stdout == "for all"
    finally:
        user.clear(mountpoint)
