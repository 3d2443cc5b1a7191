"""Bytes that are read once, from the first to the last: a stream in chunks, or a file.

To skip is as important as to read: of a layer, all but the headers is skipped.
"""

from collections.abc import Iterator
from typing import Protocol

from ocifs.errors import InvalidImageError
from ocifs.reader import ReaderAt


class Forward(Protocol):
    """Bytes that are read once, from the first to the last."""

    offset: int
    """Of the byte to be read next."""

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer only at the end."""
        ...

    def skip(self, size: int) -> int:
        """Pass over `size` bytes; return how many there were."""
        ...


class ChunkReader:
    """A stream that comes in chunks, such as a layer while it is decompressed. Chunks are never joined to skip."""

    def __init__(self, chunks: Iterator[bytes | memoryview]) -> None:
        self.offset = 0
        self._chunks = chunks
        self._chunk: bytes | memoryview = b""
        self._at = 0

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer only at the end."""
        data = bytes(self._chunk[self._at : self._at + size])
        self._at += len(data)
        while len(data) < size and self._advance():
            more = self._chunk[: size - len(data)]
            self._at = len(more)
            data += more
        self.offset += len(data)
        return data

    def skip(self, size: int) -> int:
        """Pass over `size` bytes; return how many there were."""
        missing = size
        while missing > (there := len(self._chunk) - self._at):
            missing -= there
            if not self._advance():
                size -= missing
                missing = 0
        self._at += missing
        self.offset += size
        return size

    def drain(self) -> None:
        """Pass over all that is left, so that whoever makes the chunks sees the end."""
        while self.skip(1 << 30):
            pass

    def _advance(self) -> bool:
        self._at = 0
        self._chunk = b""
        for chunk in self._chunks:
            if chunk:
                self._chunk = chunk
                break
        return bool(self._chunk)


class ReaderForward:
    """A file read from its first byte to its last; to skip costs nothing."""

    def __init__(self, reader: ReaderAt) -> None:
        self.offset = 0
        self._reader = reader

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer only at the end."""
        data = self._reader.pread(size, self.offset)
        self.offset += len(data)
        return data

    def skip(self, size: int) -> int:
        """Pass over `size` bytes; return how many there were."""
        size = min(size, self._reader.size - self.offset)
        self.offset += size
        return size


def read_exactly(stream: Forward, size: int) -> bytes:
    """Return the next `size` bytes.

    Raises:
        InvalidImageError: The stream ends before.
    """
    data = stream.read(size)
    if len(data) < size:
        raise InvalidImageError(f"the tar stream ends at byte {stream.offset}, inside this entry's headers")
    return data
