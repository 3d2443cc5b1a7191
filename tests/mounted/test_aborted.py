"""A FUSE connection that ends while it is mounted: the daemon says so, and leaves no mount that cannot be read."""

import errno
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.images import Image, write_layout
from tests.mounted.test_lifecycle import daemon_of, holding, listed

pytestmark = pytest.mark.usefixtures("root")

_SAID = "its FUSE connection was aborted, so nothing can be read any more: unmounted"


@pytest.fixture
def connections(tmp_path: Path) -> Iterator[Path]:
    """The kernel's directory of FUSE connections."""
    at = tmp_path / "connections"
    at.mkdir()
    subprocess.run(["mount", "-t", "fusectl", "fusectl", at], check=True)
    yield at
    subprocess.run(["umount", at], check=True)


def connection_of(daemon: int) -> str:
    """Return the name of a daemon's connection, as the kernel says it of /dev/fuse (since Linux 6.17)."""
    for fd in Path(f"/proc/{daemon}/fd").iterdir():
        if os.readlink(fd) == "/dev/fuse":
            said = re.search(r"^fuse_connection:\s*(\d+)$", Path(f"/proc/{daemon}/fdinfo/{fd.name}").read_text(), re.M)
            if said:
                return said[1]
    pytest.skip("this kernel does not say which connection a file of /dev/fuse has")


def abort(connections: Path, daemon: int) -> None:
    (connections / connection_of(daemon) / "abort").write_text("1")


def is_gone(process: int) -> bool:
    deadline = time.monotonic() + 20
    while Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not Path(f"/proc/{process}").exists()


def test_an_aborted_connection_ends_the_mount(ocifs: Ocifs, small: Path, connections: Path) -> None:
    with ocifs.mounted(small) as mountpoint:
        daemon = daemon_of(ocifs)
        abort(connections, daemon)
        assert is_gone(daemon)
        assert os.listdir(mountpoint) == []
        assert listed(ocifs) == []
        assert ocifs.leftovers() == []
        assert f"{mountpoint}: {_SAID}" in ocifs.log.read_text()


def test_readers_of_an_aborted_connection_are_told(ocifs: Ocifs, small: Path, connections: Path) -> None:
    with ocifs.mounted(small) as mountpoint, holding(mountpoint / "dir/big") as held:
        daemon = daemon_of(ocifs)
        abort(connections, daemon)
        assert is_gone(daemon)
        assert os.listdir(mountpoint) == []
        with pytest.raises(OSError) as caught:  # noqa: PT011 - which of them depends on the engine
            held.read(1 << 20)
        assert caught.value.errno in {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO}


def test_a_daemon_that_cannot_clear_it_leaves_it_listed_as_dead(ocifs: Ocifs, small: Path, connections: Path) -> None:
    with ocifs.mounted(small) as mountpoint:
        daemon = daemon_of(ocifs)
        os.kill(daemon, signal.SIGSTOP)
        abort(connections, daemon)
        os.kill(daemon, signal.SIGKILL)
        assert is_gone(daemon)
        assert [each["state"] for each in listed(ocifs)] == ["dead"]
        ocifs.output("umount", mountpoint)
        assert listed(ocifs) == []


def test_another_mount_on_its_path_is_left_alone(ocifs: Ocifs, small: Path, connections: Path) -> None:
    mountpoint = ocifs.mountpoint()
    ocifs.output("mount", small, mountpoint)
    old = daemon_of(ocifs)
    os.kill(old, signal.SIGSTOP)
    abort(connections, old)
    ocifs.output("mount", "--replace", small, mountpoint)
    os.kill(old, signal.SIGCONT)
    assert is_gone(old)
    assert (mountpoint / "hello").read_bytes() == b"hello\n"
    ocifs.output("umount", mountpoint)
    assert ocifs.log.read_text() == ""


_ENDS: dict[str, Callable[[Path], object]] = {
    "fusermount3 -u": lambda mountpoint: subprocess.run(["fusermount3", "-u", mountpoint], check=True),
    "umount -l": lambda mountpoint: subprocess.run(["umount", "-l", mountpoint], check=True),
    "umount -f": lambda mountpoint: subprocess.run(["umount", "-f", mountpoint], check=True),
}


@pytest.mark.parametrize("way", _ENDS)
def test_unmounting_is_no_abort(ocifs: Ocifs, small: Path, way: str) -> None:
    with ocifs.mounted(small) as mountpoint:
        _ENDS[way](mountpoint)
        assert ocifs.leftovers() == []
        assert ocifs.log.read_text() == ""


@pytest.mark.parametrize("engine", ["fuse"], indirect=True)
def test_a_mount_in_use_that_is_forced_to_end_is_cleared(ocifs: Ocifs, small: Path) -> None:
    with ocifs.mounted(small) as mountpoint, (mountpoint / "dir/big").open("rb", buffering=0):
        daemon = daemon_of(ocifs)
        assert subprocess.run(["umount", "-f", mountpoint], capture_output=True, check=False).returncode
        assert is_gone(daemon)
        assert os.listdir(mountpoint) == []
        assert ocifs.leftovers() == []
        assert _SAID in ocifs.log.read_text()


def test_the_mount_of_an_ordinary_user_is_cleared(user: Ocifs, connections: Path) -> None:
    with user.mounted(write_layout(user.home / "image", Image())) as mountpoint:
        daemon = daemon_of(user)
        abort(connections, daemon)
        assert is_gone(daemon)
        assert os.listdir(mountpoint) == []
        assert user.leftovers() == []
