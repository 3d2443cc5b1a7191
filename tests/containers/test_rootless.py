"""A user who is not root runs containers as well, where the machine allows it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ocifs.bundle.runtime import check_user_namespaces
from ocifs.errors import UnsupportedError
from tests.cli.command import Ocifs
from tests.containers.conftest import image_of_programs
from tests.images import write_layout


@pytest.fixture
def theirs(user: Ocifs, runc: None) -> Path:
    """The image where the user may read it; skip where the kernel gives no user namespaces."""
    if subprocess.run([*user.become, "unshare", "--user", "--map-root-user", "true"], check=False).returncode:
        pytest.skip("this machine gives ordinary users no user namespaces")
    return write_layout(user.home / "image", image_of_programs())


@pytest.mark.parametrize("rootfs", ["mount", "overlay", "tmpfs"])
def test_runs_and_leaves_nothing(user: Ocifs, theirs: Path, rootfs: str) -> None:
    if rootfs != "mount" and shutil.which("fuse-overlayfs") is None:
        pytest.skip("fuse-overlayfs is missing")
    assert user.output("run", "--rootfs", rootfs, theirs) == "started by the image\n"
    assert user.leftovers() == []


def test_root_in_the_container_owns_the_rootfs(user: Ocifs, theirs: Path) -> None:
    script = "id -u; stat -c %u /root /bin/sh; ls /root; cat /etc/secret"
    assert user.output("run", theirs, "--", "sh", "-c", script).split() == ["0", "0", "0", "secret"]


def test_writes_everywhere(user: Ocifs, theirs: Path) -> None:
    script = "echo x >/root/x && echo y >>/etc/secret && cat /root/x /etc/secret"
    assert user.output("run", "--rootfs", "tmpfs", theirs, "--", "sh", "-c", script).split() == ["x", "secret", "y"]
    assert user.leftovers() == []


def test_closed_directories_are_removed(user: Ocifs, theirs: Path) -> None:
    script = "mkdir /srv/closed /srv/closed/in && echo x >/srv/closed/in/x && chmod 0 /srv/closed/in /srv/closed"
    assert user.output("run", "--rootfs", "overlay", theirs, "--", "sh", "-c", script) == ""
    assert user.leftovers() == []


def test_another_user_than_root_cannot_be(user: Ocifs, theirs: Path) -> None:
    assert "use --user 0:0" in user.complaint(5, "run", "--user", "web", theirs)


def test_being_killed_leaves_nothing_either(user: Ocifs, theirs: Path) -> None:
    with user.start("run", "--rootfs", "tmpfs", theirs, "--", "sh", "-c", "echo ready; exec sleep 1000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()
    assert user.leftovers() == []


def test_a_bundle_is_mounted_listed_and_unmounted(user: Ocifs, theirs: Path) -> None:
    bundle = user.home / "box"
    user.output("bundle", "--rootfs", "overlay", theirs, bundle)
    assert str(bundle) in user.output("mounts")
    user.output("umount", bundle)
    assert user.leftovers() == []


def test_without_fuse_overlayfs_it_says_so(user: Ocifs, theirs: Path, tmp_path: Path) -> None:
    for program in ("runc", "fusermount3", "rm", "find", "setpriv", "env"):
        (user.home / program).symlink_to(shutil.which(program) or "")
    complaint = user.complaint(7, "run", "--rootfs", "overlay", theirs, PATH=str(user.home))
    assert complaint.startswith("fuse-overlayfs is missing")


def test_a_crafted_bundle_of_another_user_is_not_obeyed(ocifs: Ocifs, user: Ocifs, root: None) -> None:
    bundle = user.home / "box"
    bundle.mkdir(mode=0o700)
    (bundle / "state/box").mkdir(parents=True)
    (bundle / "runtime").symlink_to("/bin/false")
    subprocess.run(["chown", "-Rh", str(user.home.stat().st_uid), bundle], check=True)
    assert "is not an ocifs mount" in ocifs.complaint(7, "umount", bundle)
    assert bundle.exists()


@pytest.mark.parametrize("name", ["user/max_user_namespaces", "kernel/unprivileged_userns_clone"])
def test_a_machine_without_user_namespaces_is_named(tmp_path: Path, name: str) -> None:
    sysctl = tmp_path / name
    sysctl.parent.mkdir()
    sysctl.write_text("0\n")
    with pytest.raises(UnsupportedError, match=name.replace("/", r"\.") + " is 0"):
        check_user_namespaces(tmp_path)
    sysctl.write_text("1\n")
    check_user_namespaces(tmp_path)
