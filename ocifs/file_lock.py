"""An exclusive lock on an open file that no process waits for without end.

The holder may work for hours, so a time limit alone would be wrong. Instead, the wait ends if the holder makes no
progress: it is stopped (SIGSTOP, Ctrl-Z), or it neither computes nor changes the file. /proc/locks names the holder,
unless it is in another PID namespace; then only the file counts. This module does not know what the file is.

A lock belongs to the open file (flock(2)), or to the process (fcntl(2)): the latter is released when its process ends,
even if another one has the same open file.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ocifs.process import stat_of

PATIENCE = 120.0
"""Seconds without progress, longer than a request to a registry takes with its retries."""
STOPPED_PATIENCE = 2.0
"""Seconds for which the holder may be stopped."""
_PAUSE = 0.01
_PAUSE_MAX = 0.1


class StuckHolderError(Exception):
    """The holder of the lock makes no progress. The text is the subject and verb of a sentence."""


class _Activity(NamedTuple):
    """What changes while the holder makes progress."""

    pid: int | None
    ticks: int
    """Processor time of the holder, in clock ticks."""
    size: int
    mtime_ns: int


def lock(
    fd: int,
    check: Callable[[], object] = lambda: None,
    *,
    of_process: bool = False,
    patience: float = PATIENCE,
    stopped_patience: float = STOPPED_PATIENCE,
) -> None:
    """Lock an open file, or with `of_process` let this process lock it.

    `check` is called while another process has the lock; its exception ends the wait.

    Raises:
        StuckHolderError: The holder makes no progress.
        OSError: The file system has no locks, for example.
    """
    take, kind = (fcntl.lockf, "POSIX") if of_process else (fcntl.flock, "FLOCK")  # as in proc_locks(5)
    pause = _PAUSE
    before: _Activity | None = None
    inactive = stopped = 0.0  # sums of pauses, so that the time for which this process is stopped does not count
    while True:
        try:
            take(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            check()
        else:
            return
        time.sleep(pause)
        activity, is_stopped = _look(fd, kind)
        inactive = inactive + pause if activity == before else 0.0
        stopped = stopped + pause if is_stopped else 0.0
        if stopped > stopped_patience:
            raise StuckHolderError(f"process {activity.pid} is stopped")
        if inactive > patience:
            holder = "another process" if activity.pid is None else f"process {activity.pid}"
            raise StuckHolderError(f"{holder} has made no progress for {patience:g} s")
        before = activity
        pause = min(2 * pause, _PAUSE_MAX)


def _look(fd: int, kind: str) -> tuple[_Activity, bool]:
    """Return the activity of the process that holds the lock, and whether the process is stopped."""
    status = os.fstat(fd)
    pid = _holder(status, kind)
    if pid is not None:
        with contextlib.suppress(OSError):  # it has just ended
            stat = stat_of(pid)
            return _Activity(pid, stat.ticks, status.st_size, status.st_mtime_ns), stat.is_stopped
    return _Activity(None, 0, status.st_size, status.st_mtime_ns), False


def _holder(status: os.stat_result, kind: str) -> int | None:
    """Return the PID of the process that has a lock of this kind on a file; None if it is unknown.

    Some file systems show another device there than stat(2) does, so the inode number decides if no device matches.
    """
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    found = [fields for line in lines if (fields := line.split())[1] == kind and int(fields[4]) > 0]
    matching = [fields for fields in found if fields[5] == device] or [
        fields for fields in found if fields[5].rpartition(":")[2] == str(status.st_ino)
    ]
    return int(matching[0][4]) if matching else None
