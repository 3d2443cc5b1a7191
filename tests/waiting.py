"""Waiting for a condition that another process brings about."""

import sys
import time
from collections.abc import Callable


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Poll a condition, ever more rarely, because it may cost a process; fail if it is false after `seconds`."""
    deadline = time.monotonic() + seconds
    pause = 0.02
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(pause)
        pause = min(2 * pause, 0.3)


def thread_count() -> int:
    """Return the number of threads of this process that run Python; those of libraries come and go, such as grpc's."""
    return len(sys._current_frames())
