"""From a zTOC to a LayerIndex.

What a zTOC says is claims: each is held against the blob's size and against every rule that an entry of a tar has; that
they are true of the blob only the whole blob can show. It does not tell of sparse files, whose bytes would be others
than it says; where one shows, the zTOC is refused. And it may end before the tar stream does, because whoever makes one
stops at the end of the archive, but diff ID and decoding go to the end of the stream: so the true size is the caller's
to find out (`size_of_gzip`).
"""

from itertools import pairwise
from struct import error as StructError  # noqa: N812 - it is a class
from typing import Literal, NamedTuple

from ocifs.compression import MAX_SPAN
from ocifs.compression.zstd_frame import window_packer
from ocifs.errors import InvalidImageError, OcifsError, UnsupportedError, printable
from ocifs.indexes.ztoc import GZIP, GZIP_HEAD, GZIP_POINT, IMPLICIT_START, KINDS, TAR_POINTS, UNCOMPRESSED, WINDOW
from ocifs.indexes.ztoc.flatbuffer import BYTE, INT, LONG, UINT, Buffer, Table
from ocifs.layer.index import Summary, encode_tail, pack_u64
from ocifs.limits import Limits
from ocifs.sources.resolve import ImageLayer
from ocifs.spec.digest import Digest
from ocifs.spec.rfc3339 import parse_time
from ocifs.store import Writer
from ocifs.toc import BLOCK, CHARACTER, HARDLINK, REGULAR, SYMLINK, Entry, pax
from ocifs.toc.field import INT64_MAX, NAME_MAX, unsupported_type

_KINDS = {name: kind for kind, name in enumerate(KINDS)}
_RECORD = 5
"""Bytes of a pax record, at least."""
_SLACK = 1 << 20
"""Bytes that may follow the end of an archive, at most: tar fills up its last record, of 10 KiB commonly."""
_SPAN_LEAST = 64 << 10
"""Bytes of a span in a layer without compression: there, many cost nothing in the zTOC, but in what is made of it."""


class Ztoc(NamedTuple):
    """What a zTOC says of a layer."""

    codec: Literal["tar", "gzip"]
    blob_size: int
    size: int
    """Bytes of the tar stream, up to the end of the archive at least."""
    starts: list[int]
    """Of each span: where it begins in the tar stream,"""
    offsets: list[int]
    """in the blob,"""
    bits: bytes
    """with so many top bits of that byte,"""
    windows: list[memoryview]
    """after these bytes of the tar stream,"""
    digests: list[bytes]
    """and the sha256 of its bytes in the blob."""
    entries: list[Entry]


def read_ztoc(data: bytes, limits: Limits) -> Ztoc:
    """Return what a zTOC says.

    Raises:
        InvalidImageError: It is malformed, or contradicts itself.
        UnsupportedError: It tells of something that ocifs does not handle.
        LimitError: It holds more than a layer may.
    """
    try:
        root = Buffer(data).root()
        blob_size, size = root.number(2, LONG), root.number(3, LONG)
        toc, spans = root.table(4), root.table(5)
        checkpoints = memoryview(spans.string(3))
        count = spans.count(2)
        if spans.number(1, INT) + 1 != count:
            raise InvalidImageError(f"it has {count} digests for {spans.number(1, INT) + 1} spans")
        if not (0 <= size <= INT64_MAX >> 1 and blob_size >= 0):
            raise InvalidImageError(f"it is of a layer of {blob_size} bytes that are {size} bytes")
        algorithm = spans.number(0, BYTE, GZIP)
        if algorithm == UNCOMPRESSED:
            starts = _tar_starts(checkpoints, blob_size, count)
            digests = list(map(_digest, spans.strings(2)))
            return Ztoc("tar", blob_size, blob_size, starts, starts, bytes(len(starts)), [], digests, _toc(toc, limits))
        if algorithm != GZIP:
            raise UnsupportedError(f"it is of the compression {algorithm}, which is unknown")
        points = _gzip_points(checkpoints, count)
        if any(start < 0 or bits > 7 or not (bits > 0) <= offset <= blob_size for offset, start, bits, _ in points):
            raise InvalidImageError("a checkpoint that is outside of the layer")
        return Ztoc(
            "gzip",
            blob_size,
            size,
            [start for _, start, _, _ in points],
            [offset - (bits > 0) for offset, _, bits, _ in points],
            bytes(bits for _, _, bits, _ in points),
            [window for _, _, _, window in points],
            list(map(_digest, spans.strings(2))),
            _toc(toc, limits),
        )
    except StructError:
        raise InvalidImageError("it is cut short, or an offset leads out of it") from None


def size_of_gzip(ztoc: Ztoc, tail: bytes) -> int:
    """Return the size of the tar stream in a blob whose last four bytes are `tail`: its size, modulo 2**32 (RFC 1952).

    Raises:
        UnsupportedError: That is not the size of the stream, as when it has several members.
    """
    beyond = (int.from_bytes(tail, "little") - ztoc.size) % (1 << 32)
    if len(tail) != 4 or beyond > _SLACK:
        raise UnsupportedError("it does not tell how long the tar stream is: there is more in the blob than one member")
    return ztoc.size + beyond


def write_index(ztoc: Ztoc, layer: ImageLayer, size: int, out: Writer) -> None:
    """Write the LayerIndex of a layer whose tar stream has `size` bytes.

    Raises:
        InvalidImageError: The zTOC is of another layer.
        UnsupportedError: Its spans are too long to decode for a few bytes.
    """
    blob_size = layer.descriptor.size
    if ztoc.blob_size != blob_size:
        raise InvalidImageError(f"it is of a layer of {ztoc.blob_size} bytes, the layer has {blob_size} bytes")
    starts, offsets = [*ztoc.starts, size], [*ztoc.offsets, blob_size]
    longest = max(b - a for a, b in pairwise(starts))
    if longest > MAX_SPAN:
        raise UnsupportedError(f"it has a span of {longest} bytes, the longest that is read has {MAX_SPAN}")
    pack = window_packer()
    windows = []
    for start, window in zip(ztoc.starts, ztoc.windows, strict=False):  # there are none without compression
        windows.append(out.size)
        if start:  # else nothing is before it, though there is a window all the same
            out.write(pack(bytes(window)))
    if windows:
        windows.append(out.size)
    summary = Summary(
        blob_digest=str(layer.descriptor.digest),
        blob_size=blob_size,
        diff_id=str(layer.diff_id),
        size=size,
        codec=ztoc.codec,
        reframed=False,
        entries=len(ztoc.entries),
        starts=pack_u64(starts),
        offsets=pack_u64(offsets),
        bits=ztoc.bits + b"\0",
        windows=pack_u64(windows),
        digests=b"".join(ztoc.digests),
        warnings=(),
    )
    out.write(encode_tail(ztoc.entries, summary, out.size))


def _digest(text: bytes) -> bytes:
    digest = Digest(text.decode("ascii", "replace"))
    if digest.algorithm != "sha256":
        raise UnsupportedError(f"spans with {digest.algorithm} digests")
    return bytes.fromhex(digest.hex)


def _tar_starts(checkpoints: memoryview, size: int, count: int) -> list[int]:
    """Return where the spans of a layer without compression begin."""
    if len(checkpoints) != TAR_POINTS.size:
        raise InvalidImageError(f"{len(checkpoints)} bytes of checkpoints, for a layer that needs {TAR_POINTS.size}")
    _, span_size, claimed = TAR_POINTS.unpack(checkpoints)
    if claimed != size or span_size < min(_SPAN_LEAST, max(size, 1)) or -(-size // span_size) != count or not count:
        raise InvalidImageError(f"{count} spans of {span_size} bytes do not make {size}")
    return list(range(0, size, span_size))


def _gzip_points(checkpoints: memoryview, count: int) -> list[tuple[int, int, int, memoryview]]:
    """Return offset of the first whole byte, start, bits and window of each checkpoint."""
    if len(checkpoints) < GZIP_HEAD.size:
        raise InvalidImageError(f"{len(checkpoints)} bytes of checkpoints")
    claimed, _ = GZIP_HEAD.unpack_from(checkpoints)
    there, rest = divmod(len(checkpoints) - GZIP_HEAD.size, GZIP_POINT.size)
    if claimed != count or not count or rest or there not in {count, count - 1}:
        raise InvalidImageError(f"{len(checkpoints)} bytes of {claimed} checkpoints, for {count} spans")
    points = [] if there == count else [(IMPLICIT_START, 0, 0, memoryview(b""))]
    fixed = GZIP_POINT.size - WINDOW
    for at in range(GZIP_HEAD.size, len(checkpoints), GZIP_POINT.size):
        offset = int.from_bytes(checkpoints[at : at + 8], "little", signed=True)
        start = int.from_bytes(checkpoints[at + 8 : at + 16], "little", signed=True)
        points.append((offset, start, checkpoints[at + 16], checkpoints[at + fixed : at + GZIP_POINT.size]))
    return points


def _toc(toc: Table, limits: Limits) -> list[Entry]:
    """Return the entries in the order of the tar stream."""
    count = toc.count(0)
    if count > limits.entries:
        raise limits.passed("entries", f"{count} tar entries")
    found = [_entry(table, limits) for table in toc.tables(0)]
    found.sort(key=lambda each: each[0])
    end = 0
    for offset, entry in found:
        # A file that is sparse has fewer bytes in the stream than its size, so that the next one is too near.
        if offset < end + 512:
            raise UnsupportedError(f"entry '{_shown(entry.path)}' begins inside of the one before, which may be sparse")
        end = offset + entry.stored + -entry.stored % 512
    return [entry for _, entry in found]


def _entry(table: Table, limits: Limits) -> tuple[int, Entry]:
    """Return where an entry's bytes begin, or would, and the entry."""
    path = table.string(0)
    try:
        kind = _KINDS.get(table.string(1))
        if kind is None:
            raise unsupported_type(table.string(1)[:NAME_MAX])
        if _RECORD * table.count(13) > limits.extended_header:
            raise limits.passed("extended_header", f"{table.count(13)} pax records")
        records = {each.string(0): each.string(1) for each in table.tables(13)}
        if any(key.startswith(b"GNU.sparse.") for key in records):
            raise UnsupportedError("a sparse file, of which a zTOC does not tell enough")
        offset = table.number(2, LONG)
        size = table.number(3, LONG) if kind == REGULAR else 0
        if not (0 <= offset <= INT64_MAX and 0 <= size <= INT64_MAX - offset):
            raise InvalidImageError(f"{size} bytes at {offset}")
        device = kind in {CHARACTER, BLOCK}
        entry = Entry(
            kind,
            path,
            table.number(5, LONG) & 0o7777,
            table.number(6, UINT),
            table.number(7, UINT),
            _mtime(table.string(10)),
            size,
            offset if kind == REGULAR else 0,
            size,
            table.string(4) if kind in {HARDLINK, SYMLINK} else b"",
            (table.number(11, LONG), table.number(12, LONG)) if device else (0, 0),
            pax.xattrs(records, limits) if records else {},
        )
    except OcifsError as error:
        raise type(error)(f"entry '{_shown(path)}': {error}") from None
    return offset, entry


def _mtime(text: bytes) -> int:
    """Return a time in ns since the epoch. Raises InvalidImageError."""
    try:
        return parse_time(text.decode("ascii"))
    except ValueError:
        raise InvalidImageError(f"invalid time '{_shown(text)}'") from None


def _shown(text: bytes) -> str:
    return printable(text[:NAME_MAX])
