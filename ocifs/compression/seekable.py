"""A blob as the file object that indexed_gzip and rapidgzip require."""

import io
import os

from ocifs.reader import ReaderAt


class _SeekableFile(io.RawIOBase):
    def __init__(self, blob: ReaderAt, size: int) -> None:
        self.blob = blob
        self.size = size
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        return self.position

    def read(self, size: int = -1) -> bytes:
        left = max(self.size - self.position, 0)
        data = self.blob.pread(left if size < 0 else min(size, left), self.position)
        self.position += len(data)
        return data

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def seekable_file(blob: ReaderAt, size: int) -> io.RawIOBase:
    """Return the first `size` bytes of a blob as a file."""
    return _SeekableFile(blob, size)
