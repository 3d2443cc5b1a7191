"""A lock for each mountpoint: one process at a time checks it and mounts on it, or unmounts it.

The lock is one byte of a single file in the runtime directory, at an offset derived from the mountpoint's path, and
belongs to the open file (fcntl_locking(2), F_OFD_SETLK). So nothing has to be cleaned up, and the kernel unlocks it
when a process dies. It works between the processes of one user; another user has another runtime directory.
"""

import fcntl
import hashlib
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ocifs.errors import MountError, printable_path, raise_if_short
from ocifs.mount.record import runtime_directory
from ocifs.trusted_directory import TrustedDirectory

PATIENCE = 30.0
"""Seconds. A mount or unmount holds the lock for a fraction of one, unless it waits for a daemon."""
_PAUSE = 0.02
_NAME = "mountpoints.lock"


@contextmanager
def locked(mountpoint: str, patience: float = PATIENCE, *, runtime: TrustedDirectory | None = None) -> Iterator[None]:
    """Hold the lock of a real mountpoint, or of a bundle's directory; wait if another process holds it.

    `runtime` is the runtime directory, if it is open already.

    Raises:
        MountError: Another process holds it for longer than `patience` seconds.
    """
    directory = runtime or runtime_directory()
    try:
        file = directory.open_file(_NAME, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise_if_short(error)
        raise MountError(
            f"cannot lock {printable_path(mountpoint)}: {printable_path(str(directory.path / _NAME))}: {error.strerror}"
        ) from None
    try:
        _lock(file, mountpoint, patience)
        yield
    finally:
        os.close(file)


def _lock(file: int, mountpoint: str, patience: float) -> None:
    offset = int.from_bytes(hashlib.sha256(os.fsencode(mountpoint)).digest()[:7])
    request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)  # struct flock
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, request)
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                raise MountError(f"cannot lock {printable_path(mountpoint)}: {error.strerror}") from None
        else:
            return
        if time.monotonic() > deadline:
            raise MountError(
                f"{printable_path(mountpoint)} is being mounted or unmounted by another ocifs process, which does not "
                "end: find it with `ps`, end it, and try again"
            )
        time.sleep(_PAUSE)
