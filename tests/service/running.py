"""A running service, as tests use it."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from ocifs.mount.record import ListedMount, is_keeper, list_mounts
from ocifs.service import starting
from ocifs.service.protocol import Pong
from tests.cli.command import Ocifs
from tests.waiting import wait_for


@dataclass
class Service:
    """The service, and mounts of `image` by it."""

    ocifs: Ocifs
    image: Path

    def start(self, **settings: object) -> None:
        """Start it as `ocifs service` does, but without dormant workers; with settings that this command lacks."""
        if not settings:
            self.ocifs.output("service", "--idle", "0")
            return
        start = json.dumps({"what": "service", "settings": settings, "ready": 1})
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ocifs.service.main", start],
            stdout=subprocess.PIPE,
            env=self.ocifs.variables(),
            start_new_session=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        process.stdout.close()
        process.returncode = 0

    def end(self) -> None:
        """End it and its mounts."""
        for mountpoint in self.ocifs.mounts():
            self.ocifs.run("umount", "--lazy", mountpoint)
        for pid in self.keepers():
            os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not self.keepers())

    def keepers(self) -> list[int]:
        named = [pid for pid in self.ocifs.processes() if is_keeper(pid)]
        return [pid for pid in named if parent_of(pid) not in named]  # a forked template has that name at first

    @property
    def keeper(self) -> int:
        deadline = time.monotonic() + 30
        while len(found := self.keepers()) != 1:
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
        return found[0]

    def kill_keeper(self) -> None:
        os.kill(self.keeper, signal.SIGKILL)
        wait_for(lambda: not self.keepers())

    def listed(self, mountpoint: Path) -> ListedMount:
        """Return what `ocifs mounts` lists, without starting a process for it."""
        with mock.patch.dict(os.environ, XDG_RUNTIME_DIR=str(self.ocifs.runtime)):
            (found,) = [each for each in list_mounts() if each.mountpoint == str(mountpoint)]
        return found

    def restarts(self, mountpoint: Path) -> int:
        numbers = self.listed(mountpoint).numbers
        assert numbers is not None
        return numbers.restarts

    def mounts(self) -> int:
        """Return how many mounts it says it has."""
        return int(self.ocifs.output("service", "status").splitlines()[0].rpartition(" ")[2])

    def state(self) -> Pong:
        """Return its status, without starting a process for it."""
        with mock.patch.dict(os.environ, XDG_RUNTIME_DIR=str(self.ocifs.runtime)):
            return starting.ping()

    def worker(self, mountpoint: Path) -> int:
        """Wait until a process serves the mount; return its PID."""
        wait_for(lambda: self.listed(mountpoint).state == "mounted")
        return self.listed(mountpoint).pid

    def keeps(self, mountpoint: Path) -> bool:
        """Whether a worker of the running keeper serves the mount."""
        kept = self.listed(mountpoint).kept
        return kept is not None and [kept.keeper] == self.keepers() and self.listed(mountpoint).state == "mounted"

    def kill_worker(self, mountpoint: Path) -> None:
        """Kill the worker, and wait until another one serves the mount."""
        before = self.worker(mountpoint)
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: self.listed(mountpoint).pid != before)

    @contextmanager
    def mounted(self, *options: str) -> Iterator[Path]:
        with self.ocifs.mounted(self.image, *options) as mountpoint:
            yield mountpoint

    def connect(self) -> socket.socket:
        """Connect to its socket."""
        fd = os.open(self.ocifs.runtime / "ocifs", os.O_PATH)
        try:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(20)
            connection.connect(f"/proc/self/fd/{fd}/service.sock")
        finally:
            os.close(fd)
        return connection


def parent_of(pid: int) -> int:
    """Return the parent of a process; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def digests(mountpoint: Path) -> list[str]:
    """Read every file."""
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(mountpoint.iterdir())]
