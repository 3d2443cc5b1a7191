"""Descriptors that are closed at the end of a block."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def opened(path: str | bytes | os.PathLike[str], flags: int, *, dir_fd: int | None = None) -> Iterator[int]:
    """Open a file that exists, and close it at the end; a program started meanwhile does not inherit it.

    Raises OSError, here and not at the end.
    """
    fd = os.open(path, flags | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)
