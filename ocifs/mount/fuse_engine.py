"""The fuse engine: the kernel requests names, attributes and data from this process. It works for any user."""

import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pyfuse3
import trio

from ocifs.errors import MountError, printable_path, raise_if_short
from ocifs.image.rootfs import Rootfs
from ocifs.mount.bdi import raise_readahead
from ocifs.mount.job import Job
from ocifs.mount.mount_identity import MountIdentity
from ocifs.mount.mountinfo import FSTYPE
from ocifs.mount.operations import RootfsOperations
from ocifs.mount.rate_limited_log import log_aborted
from ocifs.mount.reading import Reading
from ocifs.mount.record import EngineName

_STOP_SECONDS = 1.0
"""Seconds to finish requests after a signal; reads from a dead disk are abandoned."""


class FuseEngine:
    """Serves a rootfs by `RootfsOperations`; see `ocifs.mount.engine.Engine`."""

    name: EngineName = "fuse"

    def __init__(self, rootfs: Rootfs, job: Job) -> None:
        self._job = job
        self._reading = Reading(rootfs.served, job.options.read_timeout)
        self._operations = RootfsOperations(rootfs, self._reading, job.owner)

    def mount(self) -> str | None:
        """Mount with libfuse. Raises MountError, ShortageError."""
        mountpoint = self._job.mountpoint
        try:
            pyfuse3.init(self._operations, mountpoint, self._mount_options())
        except RuntimeError:
            raise MountError(f"cannot mount on {printable_path(mountpoint)}: {_last_line_of_libfuse()}") from None
        try:
            self._identity = MountIdentity(mountpoint)
        except OSError:  # the mount table cannot be read, and nothing else would unmount
            pyfuse3.close(unmount=True)
            raise
        with ExitStack() as stack:
            stack.callback(self.close)
            self._reading.start()
            stack.pop_all()
        return self._identity.device

    def open_served_file(self, released: Callable[[], None]) -> int | None:
        """Return None: the kernel has the files of the image instead."""
        return None

    def raise_readahead(self) -> None:
        """Raise the readahead of the mount."""
        if self._identity.device:
            raise_readahead(self._identity.device)

    def serve(self, stop: int, ready: Callable[[], None]) -> None:
        """Serve in an event loop."""
        signal.set_wakeup_fd(-1)  # trio sets its own
        try:
            trio.run(_serve_until_unmounted, self._operations.begun, self._begin, stop, ready)
        except ExceptionGroup as group:
            raise _first(group) from None
        except OSError as error:
            raise_if_short(error)
            raise

    def close(self) -> None:
        """Unmount if the mount still exists, and end the connection."""
        self._identity.unmount_from_outside()
        pyfuse3.close(unmount=self._identity.is_ours())
        if self._identity.clear():  # libfuse does not unmount after an aborted connection
            log_aborted(self._job.mountpoint)
        self._reading.close()

    def _begin(self) -> None:
        if self._reading.served.recording is None:
            self.raise_readahead()

    def _mount_options(self) -> set[str]:
        job = self._job
        options = {
            "ro",
            "default_permissions",
            f"fsname={job.digest}",
            f"subtype={FSTYPE.partition('.')[2]}",
            "suid" if job.options.suid else "nosuid",
            "dev" if job.options.dev else "nodev",
            "exec" if job.options.exec else "noexec",
        }
        return options | {"allow_other"} if job.options.allow_other else options


async def _serve_until_unmounted(
    begun: trio.Event, begin: Callable[[], None], stop: int, ready: Callable[[], None]
) -> None:
    async with trio.open_nursery() as nursery:

        async def serve_requests() -> None:
            await pyfuse3.main()
            nursery.cancel_scope.cancel()

        nursery.start_soon(serve_requests)
        nursery.start_soon(_after, begun, begin)
        ready()
        await trio.lowlevel.wait_readable(stop)
        pyfuse3.terminate()
        await trio.sleep(_STOP_SECONDS)  # `serve_requests` cancels this once all requests are answered
        nursery.cancel_scope.cancel()


async def _after(begun: trio.Event, begin: Callable[[], None]) -> None:
    await begun.wait()
    begin()


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _last_line_of_libfuse() -> str:
    """Return the last line that libfuse wrote to stderr, if stderr is a file."""
    try:
        lines = Path("/proc/self/fd/2").read_text(errors="replace").split("\n")
    except OSError:
        lines = []
    return next((line for line in reversed(lines) if line.strip()), "libfuse failed")
