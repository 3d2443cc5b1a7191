"""A dormant worker: it holds the open files of an idle mount, and waits for the first request of the kernel.

Until then it shares almost all memory with the template, because it runs almost no code: a child process of it takes
over from the worker before it, and writes its record. The file with the record is locked by the dormant
worker itself (`ocifs.mount.record`).
"""

import contextlib
import fcntl
import os
import select
import struct
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from ocifs.mount.engine import stop_on_signals

PREPARED, OVER, UNPREPARED, STOPPED = range(4)
"""How waiting ended: with a request; with the end of the mount; it did not begin; with a signal to unmount. The child
process exits with one of the first three."""

_HEAD: Final = struct.Struct("<HH")
_RECORD: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW


class Dormant(NamedTuple):
    """The files of an order that its receiver needs while it is dormant, by their positions; 0 and 0: it is not."""

    device: int = 0
    """/dev/fuse."""
    directory: int = 0
    """The runtime directory."""

    def encode(self, order: bytes) -> bytes:
        """Return a message with an encoded order."""
        return _HEAD.pack(*self) + order

    @classmethod
    def decode(cls, message: bytes) -> "tuple[Dormant, bytes]":
        """Return the two parts of a message."""
        return cls(*_HEAD.unpack_from(message)), message[_HEAD.size :]

    def wait(self, files: Sequence[int], prepare: Callable[[int], int]) -> int:
        """Wait for a request, after a child process has called `prepare` with the descriptor of the record.

        Return `PREPARED`, `OVER`, `UNPREPARED` or `STOPPED`.
        """
        with stop_on_signals() as stop:
            status = UNPREPARED
            with contextlib.suppress(OSError):
                record = os.open(f"{os.getpid()}.json", _RECORD, 0o600, dir_fd=files[self.directory])
                fcntl.flock(record, fcntl.LOCK_EX)
                status = _in_child(lambda: prepare(record))
            return _request(files[self.device], stop) if status == PREPARED else status


def _in_child(work: Callable[[], int]) -> int:
    """Return the result of `work` in a child process; `UNPREPARED` if it fails. Raises OSError."""
    pid = os.fork()
    if pid == 0:
        status = UNPREPARED
        try:
            status = work()
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else UNPREPARED


def _request(device: int, stop: int) -> int:
    poll = select.poll()
    poll.register(device, select.POLLIN)
    poll.register(stop, select.POLLIN)
    ready = dict(poll.poll())
    if stop in ready:
        return STOPPED
    return OVER if ready[device] & select.POLLERR else PREPARED
