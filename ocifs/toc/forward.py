"""Read bytes once, from the first to the last: a stream in chunks, or a file.

Skipping matters as much as reading: `scan` skips everything in a layer but the headers.
"""

from collections.abc import Iterator
from typing import Protocol

from ocifs.errors import InvalidImageError
from ocifs.reader import ReaderAt


class Forward(Protocol):
    """A forward-only stream of bytes."""

    offset: int
    """Offset of the next byte."""

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer only at the end."""
        ...

    def skip(self, size: int) -> int:
        """Skip `size` bytes, fewer only at the end; return the number skipped."""
        ...


class ChunkReader:
    """A stream of chunks, such as a layer during decompression. Skipping never joins chunks."""

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
        """Skip `size` bytes, fewer only at the end; return the number skipped."""
        missing = size
        while missing > (available := len(self._chunk) - self._at):
            missing -= available
            if not self._advance():
                size -= missing
                missing = 0
        self._at += missing
        self.offset += size
        return size

    def drain(self) -> None:
        """Skip to the end, so that the producer of the chunks finishes."""
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
    """A file as a forward-only stream; skipping reads nothing."""

    def __init__(self, reader: ReaderAt) -> None:
        self.offset = 0
        self._reader = reader

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer only at the end."""
        data = self._reader.pread(size, self.offset)
        self.offset += len(data)
        return data

    def skip(self, size: int) -> int:
        """Skip `size` bytes, fewer only at the end; return the number skipped."""
        size = min(size, self._reader.size - self.offset)
        self.offset += size
        return size


def read_exactly(stream: Forward, size: int) -> bytes:
    """Return the next `size` bytes.

    Raises:
        InvalidImageError: The stream has fewer.
    """
    data = stream.read(size)
    if len(data) < size:
        raise InvalidImageError(f"the tar stream ends at byte {stream.offset}, inside this entry's headers")
    return data
