"""Read, write and verify GZIDX files, the index format of indexed_gzip: the checkpoints of a gzip blob.

A GZIDX file from elsewhere is unverified. `GzidxPass` decodes the blob by its points alone: each span from its own
checkpoint and the bytes up to the next one, and by continuing the span before, as reads do. So the right diff ID of the
tar stream verifies the points.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import BinaryIO, NamedTuple, Self

from ocifs.compression import CHUNK, MAX_SPAN, Checkpoint, evenly
from ocifs.compression.inflation import Inflation
from ocifs.compression.zstd_frame import window_packer
from ocifs.errors import InvalidImageError, OcifsError, printable_path
from ocifs.reader import ReaderAt

_WINDOW = 1 << 15
_REPORT_INTERVAL = 16
"""Points between updates of `found`."""

# "GZIDX", version, flags, compressed size, uncompressed size, spacing, window size, number of points
_GZIDX_HEADER = struct.Struct("<5sBBQQIII")
# compressed offset (of the first whole byte), uncompressed offset, bits before it, whether it has a window
_GZIDX_POINT = struct.Struct("<QQBB")


class GzidxHeader(NamedTuple):
    """The header of a GZIDX file."""

    version: int
    blob_size: int
    size: int
    """Uncompressed bytes."""
    window_size: int
    points: int


def read_header(file: BinaryIO) -> GzidxHeader:
    """Read the header of a GZIDX file. Raises InvalidImageError."""
    header = file.read(_GZIDX_HEADER.size)
    if len(header) < _GZIDX_HEADER.size or not header.startswith(b"GZIDX") or header[5] > 1:
        raise InvalidImageError("not a GZIDX file of version 0 or 1")
    _, version, _, blob_size, size, _, window_size, count = _GZIDX_HEADER.unpack(header)
    return GzidxHeader(version, blob_size, size, window_size, count)


def read_gzidx(file: BinaryIO, blob_size: int) -> Iterator[Checkpoint]:
    """Yield the checkpoints of a GZIDX file, then the end of the stream. Raises InvalidImageError."""
    version, _, size, window_size, count = read_header(file)
    if count > blob_size or window_size > _WINDOW:
        raise InvalidImageError(f"GZIDX file: {count} checkpoints with windows of {window_size} bytes are too many")
    columns = file.read(count * _GZIDX_POINT.size)
    if len(columns) < count * _GZIDX_POINT.size:
        raise InvalidImageError("GZIDX file: it is truncated")
    if not count:
        yield Checkpoint(0, 0)
    previous = (0, 0)
    for index, (offset, start, bits, has_window) in enumerate(_GZIDX_POINT.iter_unpack(columns)):
        # Version 0 has no flag: every point but the first has a window.
        expected = window_size if (has_window if version else index) else 0
        window = file.read(expected)
        position = 8 * offset - bits  # in bits
        if not (previous[0] <= position <= 8 * blob_size and previous[1] <= start <= size and bits < 8):
            raise InvalidImageError(f"GZIDX file: checkpoint {index} lies outside the blob")
        if len(window) < expected:
            raise InvalidImageError("GZIDX file: it is truncated")
        previous = (position, start)
        if start < size or index == 0:
            yield Checkpoint(start, offset - (bits > 0), bits, window)
    yield Checkpoint(size, blob_size)


def write_gzidx(file: BinaryIO, blob_size: int, size: int, count: int, points: Iterable[Checkpoint]) -> None:
    """Write `count` checkpoints, without the end, to an empty seekable file."""
    # indexed_gzip requires a spacing above the window size, and uses it for nothing else.
    file.write(_GZIDX_HEADER.pack(b"GZIDX", 1, 0, blob_size, size, 2 * _WINDOW, _WINDOW, count))
    file.seek(_GZIDX_HEADER.size + count * _GZIDX_POINT.size)
    columns = bytearray()
    for point in points:
        offset = point.offset + (point.bits > 0)
        columns += _GZIDX_POINT.pack(offset, point.start, point.bits, bool(point.window))
        file.write(point.window.rjust(_WINDOW, b"\0") if point.window else b"")
    file.seek(_GZIDX_HEADER.size)
    file.write(columns)


class GzidxPass:
    """Decodes a blob by the points of the GZIDX file `path`."""

    restartable = True
    untrimmed = False

    def __init__(self, blob: ReaderAt, path: str) -> None:
        self.blob = blob
        self.path = path
        self.consumed = 0
        self.found: list[Checkpoint] = []
        self._points_digest = b""

    def __enter__(self) -> Self:
        self.file = open_gzidx(self.path)
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()

    def chunks(self) -> Iterator[bytes]:
        """Yield the uncompressed bytes. Raises InvalidImageError."""
        if (size := read_header(self.file).blob_size) != self.blob.size:
            raise InvalidImageError(f"GZIDX file: its blob has {size} bytes, not {self.blob.size}")
        seen: list[Checkpoint] = []
        used = hashlib.sha256()
        begin = end = Checkpoint(0, 0)
        decoder: Inflation | None = None
        for begin, end in pairwise(self._points()):
            span, stored = end.start - begin.start, end.offset + (end.bits > 0) - begin.offset
            if span > MAX_SPAN or stored > 2 * MAX_SPAN:
                raise InvalidImageError(
                    f"GZIDX file: its points are {max(span, stored)} bytes apart, more than {MAX_SPAN}: create it "
                    "again with a spacing of a few MiB"
                )
            used.update(_digest(begin))
            seen.append(begin._replace(window=b""))
            if len(seen) % _REPORT_INTERVAL == 0:
                self.found = seen.copy()
            data = self.blob.pread(stored, begin.offset)
            follower = decoder if decoder and decoder.follow(data, begin.bits) else None
            decoder = Inflation(data, begin)
            for position in range(0, span, CHUNK):
                chunk = decoder.read(min(CHUNK, span - position))
                if follower and follower.read(len(chunk)) != chunk:
                    raise InvalidImageError(f"GZIDX file: the span at {begin.offset} does not continue the last one")
                yield chunk
            self.consumed = end.offset
        if not ends_with(self.blob, begin, end):
            raise InvalidImageError("GZIDX file: the stream does not end at the end of the blob")
        used.update(_digest(end))
        self._points_digest = used.digest()

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Yield the points that `chunks` decoded by. Raises InvalidImageError."""
        used = hashlib.sha256()
        pack = window_packer()
        for point in self._points():
            used.update(_digest(point))
            yield point._replace(window=pack(point.window))
        if used.digest() != self._points_digest:
            raise InvalidImageError("GZIDX file: it changed while ocifs read it")

    def _points(self) -> Iterator[Checkpoint]:
        self.file.seek(0)
        return evenly(read_gzidx(self.file, self.blob.size))


def open_gzidx(path: str) -> BinaryIO:
    """Open the file `path`, which the user named. Raises OcifsError."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise OcifsError(f"{printable_path(path)}: {error.strerror}") from None


def _digest(point: Checkpoint) -> bytes:
    return hashlib.sha256(b"%d %d %d %b" % point).digest()


def ends_with(blob: ReaderAt, last: Checkpoint, end: Checkpoint) -> bool:
    """Whether the span from the `last` checkpoint ends at the end of the blob, or before NULs."""
    if end.start - last.start > MAX_SPAN or end.offset - last.offset > 2 * MAX_SPAN:
        return True  # a span of that size makes the other pass decode the blob again
    inflation = Inflation(blob.pread(end.offset - last.offset, last.offset), last)
    try:
        inflation.read(end.start - last.start)
        return inflation.is_at_end()
    except InvalidImageError:
        return False
