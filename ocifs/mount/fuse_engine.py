"""The fuse engine: the kernel asks this process for names, attributes and bytes. Any user may mount so."""

from pathlib import Path
from types import TracebackType
from typing import Self

import pyfuse3

from ocifs.errors import MountError, printable_path
from ocifs.image.rootfs import Rootfs
from ocifs.mount.job import Job
from ocifs.mount.mountinfo import FSTYPE
from ocifs.mount.operations import RootfsOperations
from ocifs.mount.place import Place
from ocifs.mount.reading import Reading
from ocifs.mount.record import EngineName


class FuseEngine:
    """Serves a rootfs by `RootfsOperations`; see `ocifs.mount.engine.Engine`."""

    name: EngineName = "fuse"

    def __init__(self, rootfs: Rootfs, job: Job) -> None:
        self._rootfs = rootfs
        self._job = job

    def __enter__(self) -> Self:
        """Mount. Raises MountError."""
        mountpoint = self._job.mountpoint
        operations = RootfsOperations(self._rootfs, Reading(self._rootfs.served), self._job.owner)
        try:
            pyfuse3.init(operations, mountpoint, self._mount_options())
        except RuntimeError:
            raise MountError(f"cannot mount on {printable_path(mountpoint)}: {_said_by_libfuse()}") from None
        self._place = Place(mountpoint)
        return self

    async def attach(self) -> None:
        """Nothing to do: it is at the mountpoint already."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._place.unmount_from_outside()
        pyfuse3.close(unmount=self._place.is_ours())

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


def _said_by_libfuse() -> str:
    """Return the last line that libfuse wrote to stderr, if that is a file to read back."""
    try:
        lines = Path("/proc/self/fd/2").read_text(errors="replace").split("\n")
    except OSError:
        lines = []
    return next((line for line in reversed(lines) if line.strip()), "libfuse refuses")
