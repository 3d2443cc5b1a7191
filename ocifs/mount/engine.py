"""What an engine is to the daemon that runs it, and what ends one."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from ocifs.image.rootfs import Rootfs
from ocifs.mount.job import Job
from ocifs.mount.record import EngineName

ENDING = (signal.SIGTERM, signal.SIGINT)
"""The signals that unmount."""


class Engine(Protocol):
    """A way to serve a rootfs."""

    name: EngineName

    def __init__(self, rootfs: Rootfs, job: Job) -> None: ...

    def serve(self, attached: Callable[[str | None], None]) -> None:
        """Make the tree appear at the mountpoint, and serve until unmounted, or told to end.

        `attached` is called in between, with the device of the mount, major:minor, where it is known.

        Raises:
            MountError: It does not appear; nothing is left of it.
        """


@contextmanager
def told_to_end() -> Iterator[int]:
    """Give a descriptor that can be read from once one of `ENDING` has come; meanwhile they end nothing else."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, lambda *_: None) for number in ENDING}
    try:
        yield reading
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(reading)
        os.close(writing)
