"""An image on an automount: a test that plays automount(8) over the kernel's protocol for autofs, version 5.

Only the process group that mounted the autofs, here that of the tests, may mount on top of it. The kernel suspends all
other processes that access it, among them any in another session, until AUTOFS_IOC_READY.
"""

import ctypes
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ocifs.mount.mountinfo import mount_at
from tests.cli.command import Ocifs
from tests.waiting import wait_for

_PACKET_MAX = 1024
_MISSING_DIRECT = 5
_READY, _FAIL = 0x9360, 0x9361
_TOKEN = struct.Struct("=iiI")
"""Protocol version, type and token at the beginning of `struct autofs_v5_packet` (linux/auto_fs.h)."""


class Automount(NamedTuple):
    """An autofs that waits for its first access."""

    path: Path
    root: int
    requests: int

    def serve(self, command: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
        """Run a command for the next access, which then goes on."""
        _, kind, token = _TOKEN.unpack_from(os.read(self.requests, _PACKET_MAX))
        assert kind == _MISSING_DIRECT
        try:
            ran = subprocess.run(command, env=variables, capture_output=True, timeout=60, check=False)
        except subprocess.TimeoutExpired:
            fcntl.ioctl(self.root, _FAIL, token)
            raise
        fcntl.ioctl(self.root, _FAIL if ran.returncode else _READY, token)
        return ran


@pytest.fixture
def automount(ocifs: Ocifs, root: None) -> Iterator[Automount]:
    path = ocifs.mountpoint()
    requests, kernel = os.pipe()
    options = f"fd={kernel},pgrp={os.getpgrp()},minproto=5,maxproto=5,direct"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"ocifs-test", bytes(path), b"autofs", 0, options.encode()):
        pytest.skip(f"no autofs here: {os.strerror(ctypes.get_errno())}")
    os.close(kernel)
    held = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Automount(path, held, requests)
    finally:
        os.close(held)
        os.close(requests)
        subprocess.run(["umount", "-l", path], check=False)


def test_the_first_access_mounts_and_reads(ocifs: Ocifs, small: Path, automount: Automount) -> None:
    read = ["cat", str(automount.path / "hello")]
    for options in ([], ["--replace"], ["--keep"]):
        with subprocess.Popen(read, start_new_session=True, stdout=subprocess.PIPE) as reader:
            command = ocifs.command("mount", *options, small, automount.path)
            mounted = automount.serve(command, ocifs.variables())
            assert (mounted.returncode, mounted.stderr) == (0, b"")
            assert reader.communicate(timeout=60)[0] == b"hello\n"
        (daemon,) = ocifs.processes()
        assert os.getsid(daemon) == daemon  # in a session of its own, once it has mounted
        subprocess.run(["umount", automount.path], check=True)  # as systemd does when it is idle
        wait_for(lambda: ocifs.processes() == [])
        entry = mount_at(str(automount.path))
        assert entry is not None
        assert entry.is_automount


def test_a_failure_reaches_the_reader(ocifs: Ocifs, automount: Automount) -> None:
    read = ["cat", str(automount.path / "hello")]
    with subprocess.Popen(read, start_new_session=True, stderr=subprocess.PIPE) as reader:
        mounted = automount.serve(ocifs.command("mount", "/missing", automount.path), ocifs.variables())
        assert mounted.returncode == 3
        assert b"No such file or directory" in reader.communicate(timeout=60)[1]
    assert ocifs.run("umount", automount.path).code == 7
