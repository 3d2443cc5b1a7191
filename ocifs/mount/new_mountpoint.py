"""Mountpoints that ocifs itself creates, for `ocifs mount IMAGE`: in the runtime directory, which only this user reads.

They exist as long as the mount: the daemon removes its own when it ends, and `ocifs umount` that of a daemon which was
killed.
"""

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from ocifs.errors import MountError, printable_path
from ocifs.mount.mountinfo import real_mountpoint
from ocifs.mount.record import runtime_directory

_DIRECTORY = "mnt"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_NAME_MAX = 100


@contextmanager
def new_mountpoint(image: str) -> Iterator[str]:
    """Create a directory named after an image, and yield its path; remove it if the body fails.

    Raises:
        MountError: It cannot be created.
    """
    runtime = runtime_directory()
    try:
        directory = runtime.directory(_DIRECTORY, make=True)
        name = _make(directory.fd, _name(image))
    except OSError as error:
        where = printable_path(str(runtime.path))
        raise MountError(f"cannot create a mountpoint in {where}: {error.strerror}: name a directory") from None
    path = str(directory.path / name)
    try:
        yield path
    except BaseException:
        remove_mountpoint(path)
        raise


def remove_mountpoint(path: str) -> None:
    """Remove a directory if `new_mountpoint` has created it and nothing is mounted on it."""
    above, name = os.path.split(path)
    runtime = runtime_directory()
    if above != real_mountpoint(str(runtime.path / _DIRECTORY)):
        return
    with contextlib.suppress(OSError):
        directory = runtime.directory(_DIRECTORY)
        os.rmdir(name, dir_fd=directory.fd)


def _name(image: str) -> str:
    """Return the last component of a reference, with its tag, as a file name."""
    last = image.rstrip("/").rpartition("/")[2]
    return _UNSAFE.sub("-", last).strip("-.")[:_NAME_MAX] or "image"


def _make(directory: int, name: str) -> str:
    for number in itertools.count(1):
        candidate = name if number == 1 else f"{name}-{number}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(candidate, mode=0o755, dir_fd=directory)
            return candidate
    raise AssertionError
