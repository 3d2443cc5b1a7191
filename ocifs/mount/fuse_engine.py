"""The fuse engine: the kernel asks this process for names, attributes and bytes. Any user may mount so."""

import signal
from collections.abc import Callable
from pathlib import Path

import pyfuse3
import trio

from ocifs.errors import MountError, printable_path, raise_if_too_many_files
from ocifs.image.rootfs import Rootfs
from ocifs.mount.bdi import raise_readahead
from ocifs.mount.job import Job
from ocifs.mount.mount_identity import MountIdentity
from ocifs.mount.mountinfo import FSTYPE
from ocifs.mount.operations import RootfsOperations
from ocifs.mount.rate_limited_log import say_aborted
from ocifs.mount.reading import Reading
from ocifs.mount.record import EngineName

_PARTING = 1.0
"""Seconds that requests are given when told to end; what is read from a dead disk then is not waited for."""


class FuseEngine:
    """Serves a rootfs by `RootfsOperations`; see `ocifs.mount.engine.Engine`."""

    name: EngineName = "fuse"

    def __init__(self, rootfs: Rootfs, job: Job) -> None:
        self._rootfs = rootfs
        self._job = job

    def serve(self, stop: int, attached: Callable[[str | None], None]) -> None:
        """Mount, and serve. Raises MountError."""
        mountpoint = self._job.mountpoint
        reading = Reading(self._rootfs.served, self._job.read_timeout)
        operations = RootfsOperations(self._rootfs, reading, self._job.owner)
        try:
            pyfuse3.init(operations, mountpoint, self._mount_options())
        except RuntimeError:
            raise MountError(f"cannot mount on {printable_path(mountpoint)}: {_said_by_libfuse()}") from None
        try:
            place = MountIdentity(mountpoint)
        except OSError:  # of the mount table: then nothing would unmount it later
            pyfuse3.close(unmount=True)
            raise
        signal.set_wakeup_fd(-1)  # trio has its own
        try:
            reading.start()  # only now: `MountIdentity` needs this process to have no other thread
            trio.run(_until_unmounted, operations.begun, place.device, stop, attached)
        except ExceptionGroup as group:
            raise _first(group) from None
        except OSError as error:
            raise_if_too_many_files(error)
            raise
        finally:
            place.unmount_from_outside()
            pyfuse3.close(unmount=place.is_ours())
            if place.clear():  # libfuse takes an aborted connection for an unmounted one
                say_aborted(mountpoint)
            reading.close()

    def _mount_options(self) -> set[str]:
        job = self._job
        options = {
            "ro",
            "default_permissions",
            f"fsname={job.digest}",
            f"subtype={FSTYPE.partition('.')[2]}",
            "suid" if job.suid else "nosuid",
            "dev" if job.dev else "nodev",
        }
        return options | {"allow_other"} if job.allow_other else options


async def _until_unmounted(
    begun: trio.Event, device: str | None, stop: int, attached: Callable[[str | None], None]
) -> None:
    async with trio.open_nursery() as nursery:

        async def serve_requests() -> None:
            await pyfuse3.main()
            nursery.cancel_scope.cancel()

        nursery.start_soon(serve_requests)
        if device:
            nursery.start_soon(_read_ahead, begun, device)
        attached(device)
        await trio.lowlevel.wait_readable(stop)
        pyfuse3.terminate()
        await trio.sleep(_PARTING)  # ends by itself once all requests are answered
        nursery.cancel_scope.cancel()


async def _read_ahead(begun: trio.Event, device: str) -> None:
    await begun.wait()
    raise_readahead(device)


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _said_by_libfuse() -> str:
    """Return the last line that libfuse wrote to stderr, if that is a file to read back."""
    try:
        lines = Path("/proc/self/fd/2").read_text(errors="replace").split("\n")
    except OSError:
        lines = []
    return next((line for line in reversed(lines) if line.strip()), "libfuse refuses")
