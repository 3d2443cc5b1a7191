"""Requests in a process that is killed before one of their steps."""

import gc
import os
import signal
from collections.abc import Callable
from contextlib import suppress

from ocifs.snapshotter.serving import open_snapshots
from ocifs.snapshotter.settings import SnapshotterSettings
from ocifs.snapshotter.snapshots import Snapshots


def killed_after(steps: int, settings: SnapshotterSettings, request: Callable[[Snapshots], object]) -> bool:
    """Carry out a request in a child that is killed after so many steps; return whether it was."""
    child = os.fork()
    if child == 0:
        gc.freeze()  # finalizers of grpc's objects would wait for threads that this process does not have
        taken = 0

        def step(name: str) -> None:
            nonlocal taken
            if taken == steps:
                os.kill(os.getpid(), signal.SIGKILL)
            taken += 1

        with suppress(BaseException):
            with open_snapshots(settings, step=step) as snapshots:
                request(snapshots)
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False
