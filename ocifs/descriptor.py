"""Descriptors that are closed at the end of a block, and files that are read without waiting for another process."""

import errno
import os
import stat
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


def read_at_once(path: str | os.PathLike[str], limit: int) -> bytes:
    """Return a configuration file of up to `limit` bytes, in a directory that may be another user's.

    A FIFO there would block the reader. `/dev/null` is a usual way to have no configuration.

    Raises:
        OSError: It is neither a regular file nor a character device, is larger, or cannot be read.
    """
    with opened(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY) as fd:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode)):
            raise OSError(errno.EINVAL, "not a regular file")
        data = b""
        while piece := os.read(fd, limit + 1 - len(data)):
            data += piece
            if len(data) > limit:
                raise OSError(errno.EFBIG, f"it is larger than {limit} bytes")
        return data
