"""Disassemble a tar stream into tar-split entries, and reassemble the stream from them.

The bytes of the listed files become content entries, all others raw entries. So callers leave a file that the extracted
layer has not exactly as in the tar, such as the first of two with the same name, out of the list. Its bytes stay raw,
and the stream can still be reassembled. Nothing here parses tar headers.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ocifs.errors import InvalidImageError, LimitError, printable
from ocifs.tarsplit.entries import Content, Raw, TarSplitEntry, crc64


class MemberRange(NamedTuple):
    """The bytes of a file in a tar stream."""

    offset: int
    size: int
    name: bytes
    """Where the extracted layer has the file, relative to its root."""


def disassemble(
    chunks: Iterable[bytes], files: Iterable[MemberRange], max_raw: int, crc: Callable[[bytes, int | None], int] = crc64
) -> Iterator[TarSplitEntry]:
    """Yield the entries of the tar stream `chunks`; `files` are in the order of their offsets and do not overlap.

    Raises:
        InvalidImageError: A file lies beyond the end of the stream, or overlaps another one.
        LimitError: More than `max_raw` bytes of the stream are not of listed files.
    """
    stream = _Stream(chunks)
    raw = 0

    def counted(pieces: Iterable[bytes]) -> Iterator[TarSplitEntry]:
        nonlocal raw
        for piece in pieces:
            raw += len(piece)
            if raw > max_raw:
                raise LimitError(f"more than {max_raw} bytes of the layer are headers or files that it replaces")
            yield Raw(piece)

    for each in files:
        if each.offset < stream.position:
            raise InvalidImageError(f"file '{printable(each.name)}' overlaps the one before it")
        yield from counted(stream.up_to(each.offset))
        checksum: int | None = None
        for piece in stream.up_to(each.offset + each.size):
            checksum = crc(piece, checksum)
        if stream.position != each.offset + each.size:
            raise InvalidImageError(f"file '{printable(each.name)}' lies beyond the end of the tar stream")
        yield Content(each.name, each.size, checksum)
    yield from counted(stream.up_to(None))


class _Stream:
    """Chunks as one stream."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.position = 0
        self._chunks = iter(chunks)
        self._rest = b""

    def up_to(self, end: int | None) -> Iterator[bytes]:
        """Yield the bytes from the position to `end`, or to the end of the stream, which may come earlier."""
        while (left := None if end is None else end - self.position) != 0:
            chunk = self._rest or next(self._chunks, None)
            if chunk is None:
                return
            piece, self._rest = (chunk, b"") if left is None else (chunk[:left], chunk[left:])
            self.position += len(piece)
            yield piece


def assemble(
    entries: Iterable[TarSplitEntry],
    read: Callable[[Content], Iterable[bytes]],
    crc: Callable[[bytes, int | None], int] = crc64,
) -> Iterator[bytes]:
    """Yield the tar stream of the entries; `read` yields the bytes of a file of the extracted layer.

    Raises, also after a part of the stream:
        InvalidImageError: A file has another size or checksum than its entry.
    """
    for entry in entries:
        if isinstance(entry, Raw):
            yield entry.data
        elif entry.size:
            yield from _checked(entry, read(entry), crc)


def _checked(entry: Content, pieces: Iterable[bytes], crc: Callable[[bytes, int | None], int]) -> Iterator[bytes]:
    checksum: int | None = None
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > entry.size:
            break
        checksum = crc(piece, checksum)
        yield piece
    if size != entry.size or checksum != entry.crc:
        raise InvalidImageError(f"file '{printable(entry.name)}' is not what it was when the layer was stored")
