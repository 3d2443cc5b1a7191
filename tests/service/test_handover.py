"""Keepers killed at each step of an upgrade, and while they adopt: no mount is lost, and no process left."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from ocifs.mount.framing import receive_message, send_message
from tests.depth import depth
from tests.service.running import Service, digests
from tests.service.test_mounts import EXPECTED
from tests.waiting import wait_for

_MOUNTS = 2
_MESSAGES = ["request", "head", *["mount"] * _MOUNTS, "taken"]
"""Messages of a handover: the successor sends the first and the last one."""
STEPS = [(step, victim) for step in range(len(_MESSAGES) + 1) for victim in ("old", "new")]


class Relay:
    """Passes the messages of a handover from one keeper to the other, one by one."""

    def __init__(self, service: Service) -> None:
        """Start a successor that is connected to the running keeper through this."""
        self._old = service.connect()
        self._new, theirs = socket.socketpair()
        self._new.settimeout(60)
        with theirs:
            start = {"what": "successor", "settings": {}, "connection": theirs.fileno(), "ready": 1}
            self.successor = subprocess.Popen(
                [sys.executable, "-P", "-m", "ocifs.cli.keeper", json.dumps(start)],
                pass_fds=[theirs.fileno()],
                stdout=subprocess.PIPE,
                env=service.ocifs.variables(),
                start_new_session=True,
            )

    def pass_on(self, what: str) -> None:
        """Wait for the next message, and pass it on."""
        ends = (self._new, self._old) if what in {"request", "taken"} else (self._old, self._new)
        received = receive_message(ends[0])
        assert received is not None, what
        message, fds = received
        try:
            send_message(ends[1], message, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def end(self) -> None:
        """Close both connections, and wait until the successor is ready, or has ended.

        What it has sent before it was killed arrives, as without this.
        """
        if self.successor.poll() is not None:
            with suppress(BrokenPipeError, ConnectionResetError):
                if (sent := receive_message(self._new)) is not None:
                    send_message(self._old, *sent)
        self._old.close()
        self._new.close()
        assert self.successor.stdout is not None
        with self.successor.stdout as ready:
            ready.read(1)


@contextmanager
def two_mounts(service: Service) -> Iterator[list[Path]]:
    with ExitStack() as stack:
        yield [stack.enter_context(service.mounted()) for _ in range(_MOUNTS)]


def check(service: Service, mountpoints: list[Path]) -> None:
    """Check that one keeper serves the mounts, after a start if there is none, and that no other process is left."""
    if not service.keepers():
        service.start()
    for mountpoint in mountpoints:
        wait_for(lambda: service.keeps(mountpoint))  # noqa: B023
        assert digests(mountpoint) == EXPECTED
    wait_for(lambda: len(service.ocifs.processes()) == 3 + _MOUNTS)  # the keeper, and its two templates


def test_a_keeper_killed_at_any_step_of_an_upgrade_loses_no_mount(service: Service) -> None:
    with two_mounts(service) as mountpoints:
        for step, victim in depth(STEPS[::3], STEPS):
            keeper = service.keeper
            relay = Relay(service)
            for what in _MESSAGES[:step]:
                relay.pass_on(what)
            if victim == "new":
                relay.successor.kill()
                relay.successor.wait(60)
            else:
                os.kill(keeper, signal.SIGKILL)
                wait_for(lambda: keeper not in service.ocifs.processes())  # noqa: B023
            relay.end()
            if victim == "new" or step < len(_MESSAGES) - 1:
                assert relay.successor.wait(60) != 0, (step, victim)
            if victim == "new" and step < len(_MESSAGES) - 1:
                assert service.keepers() == [keeper], step
            check(service, mountpoints)
            relay.successor.returncode = 0  # it may be the keeper now


@pytest.mark.parametrize(
    ("call", "number"),
    [("pidfd_open", 1), ("pidfd_getfd", 1), ("pidfd_getfd", 3), ("pidfd_getfd", 8), ("memfd_create", 2)],
)
def test_a_keeper_killed_while_it_adopts_loses_no_mount(service: Service, call: str, number: int) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace, which kills it at that system call, is not installed")
    with two_mounts(service) as mountpoints:
        service.kill_keeper()
        inject = f"inject={call}:signal=KILL:when={number}"
        start = {"what": "service", "settings": {}}
        keeper = [sys.executable, "-P", "-m", "ocifs.cli.keeper", json.dumps(start)]
        traced = subprocess.run(
            ["strace", "-o", os.devnull, "-e", f"trace={call}", "-e", inject, *keeper],
            env=service.ocifs.variables(),
            check=False,
            timeout=90,
        )
        assert traced.returncode == -signal.SIGKILL
        check(service, mountpoints)
