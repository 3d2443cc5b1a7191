"""What an engine is to the daemon that runs it."""

from types import TracebackType
from typing import Protocol, Self

from ocifs.image.rootfs import Rootfs
from ocifs.mount.job import Job
from ocifs.mount.record import EngineName


class Engine(Protocol):
    """A way to serve a rootfs. A context manager: entered, pyfuse3 is ready to serve; left, nothing is mounted."""

    name: EngineName

    def __init__(self, rootfs: Rootfs, job: Job) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def attach(self) -> None:
        """Make the tree appear at the mountpoint, while pyfuse3 serves. Raises MountError; then it does not appear."""
