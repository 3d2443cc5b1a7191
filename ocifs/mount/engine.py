"""What an engine is to the daemon that runs it, and what ends one."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from ocifs.image.rootfs import Rootfs
from ocifs.mount.job import Job
from ocifs.mount.record import EngineName

_ENDING = (signal.SIGTERM, signal.SIGINT)
"""The signals that unmount."""


class Engine(Protocol):
    """A way to serve a rootfs."""

    name: EngineName

    def __init__(self, rootfs: Rootfs, job: Job) -> None: ...

    def serve(self, stop: int, attached: Callable[[str | None], None]) -> None:
        """Make the tree appear at the mountpoint, and serve until unmounted, or `stop` can be read from.

        `attached` is called in between, with the device of the mount, major:minor, where it is known.

        Raises:
            MountError, ShortageError: It does not appear; nothing is left of it.
        """


@contextmanager
def stop_on_signals() -> Iterator[int]:
    """Give a descriptor that can be read from once one of `_ENDING` has come; meanwhile they end nothing else."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def tell(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):  # it was told often enough
            os.write(writing, b"\0")

    handlers = {number: signal.signal(number, tell) for number in _ENDING}
    # The kernel may give a signal to any thread, and then Python calls the handler only when this one has something to
    # do; but the descriptor is written to at once.
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)
