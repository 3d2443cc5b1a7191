"""Atomic replacement: build a file or directory under a temporary name, then rename it to its name.

Other processes see the old file or the complete new one. Every failure removes the temporary file. The store and the
records of mounts do not use this module, since they hold a lock on the temporary file.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO


@contextmanager
def atomic_rename(parent: int, name: str, remove: Callable[[str, int], None]) -> Iterator[str]:
    """Yield a temporary name in the open directory `parent`; on success rename it to `name`, else `remove` it.

    Raises OSError.
    """
    temporary = f".ocifs-{os.urandom(8).hex()}"
    try:
        yield temporary
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        with suppress(FileNotFoundError, NotADirectoryError):  # not created, already renamed, or of another user
            remove(temporary, parent)
        raise


@contextmanager
def atomic_file(parent: int, name: str, mode: int = 0o666, buffering: int = -1) -> Iterator[BinaryIO]:
    """Yield a new file for writing; on success sync it and rename it to `name` in the open directory `parent`.

    Raises OSError.
    """
    with atomic_rename(parent, name, _unlink) as temporary:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=parent)
        with open(fd, "wb", buffering) as file:
            yield file
            file.flush()
            os.fsync(fd)


def _unlink(name: str, parent: int) -> None:
    os.unlink(name, dir_fd=parent)
