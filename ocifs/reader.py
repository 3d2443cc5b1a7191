"""Random access to bytes: the interface between the packages.

A compressed blob, a member of an archive and a decompressed layer all implement `ReaderAt`. This module knows nothing
of the bytes' meaning. Readers are safe to use from several threads at once.
"""

import os
import threading
from typing import Protocol, runtime_checkable

from ocifs.errors import OcifsError


class ReaderAt(Protocol):
    """Bytes with random access."""

    size: int

    def pread(self, size: int, offset: int) -> bytes:
        """Return `size` bytes at `offset`, fewer only at the end."""
        ...


class BytesReader:
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset`."""
        return self.data[offset : offset + size]


class BlobReader(ReaderAt, Protocol):
    """A blob that is a section of something on this machine: of a file, or of a compressed archive."""

    offset: int
    """Where it begins there."""

    def will_need(self, size: int, offset: int) -> None:
        """Announce a read of `size` bytes at `offset`."""
        ...


@runtime_checkable
class FileSection(BlobReader, Protocol):
    """A contiguous section of an open file, which can be passed to another process."""

    fd: int


class FileReader:
    """`size` bytes of an open regular file from `offset`. The owner of the descriptor closes it."""

    def __init__(self, fd: int, offset: int = 0, size: int | None = None) -> None:
        self.fd = fd
        self.offset = offset
        self.size = os.fstat(fd).st_size - offset if size is None else size

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset`."""
        missing = min(size, self.size - offset)
        position = self.offset + offset
        if missing <= 0:
            return b""
        data = os.pread(self.fd, missing, position)
        if len(data) == missing or not data:
            return data
        parts = [data]
        while data:
            missing -= len(data)
            position += len(data)
            data = os.pread(self.fd, missing, position) if missing else b""
            parts.append(data)
        return b"".join(parts)

    def will_need(self, size: int, offset: int) -> None:
        """Let the kernel read `size` bytes at `offset` into its page cache in advance (posix_fadvise(2))."""
        os.posix_fadvise(self.fd, self.offset + offset, size, os.POSIX_FADV_WILLNEED)


class StoppableReader(FileReader):
    """A file whose reads raise OcifsError once `stop` is set, to interrupt a long pass over it."""

    def __init__(self, file: FileSection, stop: threading.Event) -> None:
        super().__init__(file.fd, file.offset, file.size)
        self._stop = stop

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset`. Raises OcifsError once stopped."""
        if self._stop.is_set():
            raise OcifsError("interrupted")
        return super().pread(size, offset)
