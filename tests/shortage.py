"""A process that is given too little: no thread at all, for real and for this process only; or what a limit leaves."""

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.command import Ocifs, Result

_TOO_LARGE = 1 << 46
_DOCUMENTED = range(1, 10)
_PATIENCE = 20.0
_DEAD_THREAD = re.compile(r"Exception ignored in thread started by.*\nMemoryError.*\n")
"""What the interpreter prints of a thread that gets no memory for its first frame."""


@contextmanager
def no_threads() -> Iterator[None]:
    """Have the system refuse each thread: its stack would be larger than the address space."""
    before = threading.stack_size(_TOO_LARGE)
    try:
        yield
    finally:
        threading.stack_size(before)


def limited(ocifs: Ocifs, limit: str, value: int) -> Ocifs:
    """Return the command under a limit of prlimit(1), which it cannot raise."""
    return replace(ocifs, become=(*ocifs.become, "prlimit", f"--{limit}={value}:{value}"))


class Pids:
    """A cgroup with a limit on processes and threads, of either version."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def inside(self, ocifs: Ocifs) -> Ocifs:
        """Return the command in it, with all that it starts."""
        return replace(ocifs, become=("sh", "-c", f'echo $$ >{self.path}/cgroup.procs; exec "$@"', "sh"))

    def allow(self, count: int | None = None) -> None:
        """Allow so many, or as many as there are."""
        self.path.joinpath("pids.max").write_text(
            self.path.joinpath("pids.current").read_text() if count is None else str(count)
        )

    def lift(self) -> None:
        self.path.joinpath("pids.max").write_text("max")


@contextmanager
def pids_cgroup() -> Iterator[Pids]:
    """Make one, or skip where none can be made."""
    base = Path("/sys/fs/cgroup")
    control = base / "cgroup.subtree_control"
    if not (control.exists() and "pids" in control.read_text()):
        base /= "pids"
    path = base / f"ocifs-test-{os.getpid()}"
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup with a limit on processes can be made: {error.strerror}")
    try:
        if not (path / "pids.max").exists():
            pytest.skip("no cgroup has a limit on processes here")
        yield Pids(path)
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    """Remove a cgroup, a moment being given to processes that are about to end."""
    deadline = time.monotonic() + _PATIENCE
    while (path / "cgroup.procs").read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    path.rmdir()


def is_done(result: Result) -> bool:
    """Whether it succeeded; if not, it must have ended in one line and with a documented status."""
    if result.code == 0:
        assert result.err == "", result
        return True
    assert result.code in _DOCUMENTED, result
    message = _DEAD_THREAD.sub("", result.err)
    assert message.startswith("ocifs: "), result
    assert message.count("\n") == 1, result
    return False
