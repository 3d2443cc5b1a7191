"""One process at a time changes what is mounted on a mountpoint: from the look at it to the new mount, or its end.

The lock is a byte of one file in the runtime directory, chosen by the mountpoint's path, and the open file holds it
(fcntl_locking(2), F_OFD_SETLK): so nothing is left to clean up, and the kernel unlocks when a process dies. It works
between the processes of one user. Another user has another runtime directory, and is not kept out.
"""

import fcntl
import hashlib
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ocifs.errors import MountError, printable_path, raise_if_too_many_files
from ocifs.mount.record import runtime_directory

PATIENCE = 30.0
"""Seconds; a mount or an unmount takes the lock for a fraction of one, if it need not wait for a daemon."""
_PAUSE = 0.02
_NAME = "mountpoints.lock"


@contextmanager
def locked(mountpoint: str) -> Iterator[None]:
    """Hold the lock of a real mountpoint, or of a bundle's directory; wait for whoever has it.

    Raises:
        MountError: Another process has it for too long.
    """
    directory = runtime_directory()
    try:
        file = directory.open_file(_NAME, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise_if_too_many_files(error)
        raise MountError(
            f"cannot lock {printable_path(mountpoint)}: {printable_path(str(directory.path / _NAME))}: {error.strerror}"
        ) from None
    try:
        _lock(file, mountpoint)
        yield
    finally:
        os.close(file)


def _lock(file: int, mountpoint: str) -> None:
    place = int.from_bytes(hashlib.sha256(os.fsencode(mountpoint)).digest()[:7])
    request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)  # struct flock
    deadline = time.monotonic() + PATIENCE
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
