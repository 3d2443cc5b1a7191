"""What a keeper knows of a mount: enough to serve it from another process, or to pass it to the next keeper.

It is stored in a file in memory that keeper and worker share. If the keeper is killed, the next one reads it from the
worker. The format has a version, because the two keepers may be of different versions of ocifs.
"""

import os
from collections.abc import Mapping
from typing import Final, Self, TypeVar

import msgspec

from ocifs.errors import MountError
from ocifs.mount.framing import MESSAGE_MAX
from ocifs.mount.job import Job
from ocifs.mount.mount_identity import Known
from ocifs.mount.record import from_json, to_json
from ocifs.version import __version__

PROTOCOL: Final = 1
"""Version of this format, and of the messages between keepers and commands."""


T = TypeVar("T")


class OtherVersionError(Exception):
    """A message of another protocol: its text names version and protocol."""


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    protocol: int
    version: str = "?"


def decode_versioned(data: bytes, kind: type[T]) -> T:
    """Decode a message that has a protocol version. Raises ValueError if it is malformed, OtherVersionError."""
    try:
        head = from_json(data, _Head)
        if head.protocol == PROTOCOL:
            return from_json(data, kind)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    raise OtherVersionError(f"{head.version} with protocol {head.protocol}")


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A mount of a keeper. Each descriptor is one of the process that wrote it."""

    job: Job
    device: int
    """Descriptor of the open /dev/fuse."""
    page: int
    """Descriptor of the counters."""
    counters: str
    """Name of their file in the runtime directory."""
    log: int | None = None
    """Descriptor of the log file that the command has opened in its own mount namespace, if it names one."""
    since: float
    """When it was mounted, in seconds since the epoch."""
    known: Known | None = None
    """The mount; None: not yet mounted."""
    protocol: int = PROTOCOL
    version: str = __version__

    def fds(self) -> list[int]:
        """Return its descriptors, the smallest first."""
        own = [each for each in (self.device, self.page, self.log) if each is not None]
        return sorted({*own, *self.job.rootfs.fds()})

    def renumbered(self, fds: Mapping[int, int]) -> Self:
        """Return the same with the receiver's descriptors; `fds` maps the sender's to these."""
        job = msgspec.structs.replace(self.job, rootfs=self.job.rootfs.renumbered(fds))
        log = None if self.log is None else fds[self.log]
        return msgspec.structs.replace(self, job=job, device=fds[self.device], page=fds[self.page], log=log)

    def write(self, file: int) -> None:
        """Replace the content of an open file. Raises OSError."""
        data = to_json(self)
        os.ftruncate(file, 0)
        os.pwrite(file, data, 0)

    @classmethod
    def read(cls, file: int) -> Self:
        """Read an open file. Raises MountError."""
        return cls.decode(os.pread(file, MESSAGE_MAX, 0))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Decode a message. Raises MountError if it is malformed, or has another version."""
        try:
            return decode_versioned(data, cls)
        except ValueError as error:
            raise MountError(f"malformed description of a mount: {error}") from None
        except OtherVersionError as other:
            raise MountError(
                f"the mount is kept by ocifs {other}, this is {__version__} with protocol {PROTOCOL}: unmount it, or "
                "use a version with the same protocol"
            ) from None
