"""The interface of an engine, and the signals that stop one."""

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

_STOPPING = (signal.SIGTERM, signal.SIGINT)
"""The signals that unmount."""


class Engine(Protocol):
    """A way to serve a rootfs.

    This process must have a single thread until the mount is attached: `MountIdentity` may then leave a private mount
    namespace, which setns(2) refuses to a process with more. So `mount` starts the threads that reads need as its last
    step, and the daemon starts its own after `mount`.
    """

    name: EngineName

    def __init__(self, rootfs: Rootfs, job: Job) -> None: ...

    def mount(self) -> str | None:
        """Make the tree appear at the mountpoint; return the device of the mount, major:minor, if it is known.

        Raises:
            MountError, ShortageError: Mounting failed; nothing is left behind.
        """

    def open_served_file(self, released: Callable[[], None]) -> int | None:
        """Return a descriptor of the served file, if the kernel has it as a file; once, and the caller closes it.

        The mount does not end before that, so `released` is called once no other process has the file open.
        """

    def raise_readahead(self) -> None:
        """Raise the kernel's readahead, if that is allowed. While reads are recorded, it stays as it is."""

    def serve(self, stop: int, ready: Callable[[], None]) -> None:
        """Serve until unmounted, or until `stop` is readable. Call `ready` once nothing but a request can fail."""

    def close(self) -> None:
        """Unmount if the mount still exists, and release everything."""


@contextmanager
def stop_on_signals() -> Iterator[int]:
    """Yield a descriptor that becomes readable on a signal of `_STOPPING`, which has no other effect meanwhile."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def stop(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):  # the pipe is full of earlier signals
            os.write(writing, b"\0")

    handlers = {number: signal.signal(number, stop) for number in _STOPPING}
    # The kernel may deliver a signal to any thread. Python runs the handler only once the main thread has work to do,
    # but writes to the wakeup descriptor at once.
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)
