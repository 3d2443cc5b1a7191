"""Convert a zTOC to a LayerIndex.

A zTOC only makes claims. This module checks them against the blob's size and the rules for tar entries; only reading
the whole blob verifies them. A zTOC does not describe sparse files, whose stored bytes differ from their content, so a
zTOC that shows one is refused. It may also end before the tar stream does: its writer stops at the end of the archive,
but the diff ID and decoding cover the whole stream. The caller finds the real size with `size_of_gzip`.
"""

from itertools import pairwise
from struct import error as StructError  # noqa: N812 - it is a class
from typing import Literal, NamedTuple

from ocifs.compression import MAX_SPAN
from ocifs.compression.zstd_frame import window_packer
from ocifs.errors import InvalidImageError, OcifsError, UnsupportedError, counted, printable
from ocifs.indexes.ztoc import GZIP, GZIP_HEAD, GZIP_POINT, IMPLICIT_START, KINDS, TAR_POINTS, UNCOMPRESSED, WINDOW
from ocifs.indexes.ztoc.flatbuffer import BYTE, INT, LONG, UINT, Buffer, Table
from ocifs.layer.index_format import Summary, encode_tail, pack_u64
from ocifs.limits import Limits
from ocifs.sources.resolve import ImageLayer
from ocifs.spec.digest import Digest
from ocifs.spec.rfc3339 import parse_time
from ocifs.store import Writer
from ocifs.toc import BLOCK, CHARACTER, HARDLINK, REGULAR, SYMLINK, Entry, pax
from ocifs.toc.field import INT64_MAX, NAME_MAX, unsupported_type

_KINDS = {name: kind for kind, name in enumerate(KINDS)}
_RECORD = 5
"""Minimum bytes of a pax record."""
_PADDING_MAX = 1 << 20
"""Maximum bytes after the end of an archive: tar pads its last record, usually of 10 KiB."""
_SPAN_MIN = 64 << 10
"""Minimum bytes of an uncompressed layer's span: short spans cost nothing in the zTOC, but much in the LayerIndex."""


class Ztoc(NamedTuple):
    """The claims of a zTOC."""

    codec: Literal["tar", "gzip"]
    blob_size: int
    size: int
    """Bytes of the tar stream, at least up to the end of the archive."""
    starts: list[int]
    """For each span: its offset in the tar stream."""
    offsets: list[int]
    """For each span: its offset in the blob."""
    bits: bytes
    """For each span: how many top bits of the byte at that offset belong to it."""
    windows: list[memoryview]
    """For each span: the bytes of the tar stream before it."""
    digests: list[bytes]
    """For each span: the sha256 of its bytes in the blob."""
    entries: list[Entry]


def read_ztoc(data: bytes, limits: Limits) -> Ztoc:
    """Parse a zTOC.

    Raises:
        InvalidImageError: It is malformed, or contradicts itself.
        UnsupportedError: It describes something that ocifs does not handle.
        LimitError: It exceeds the limits of a layer.
    """
    try:
        root = Buffer(data).root()
        blob_size, size = root.number(2, LONG), root.number(3, LONG)
        toc, spans = root.table(4), root.table(5)
        checkpoints = memoryview(spans.string(3))
        count = spans.count(2)
        if spans.number(1, INT) + 1 != count:
            raise InvalidImageError(
                f"it has {counted(count, 'digest')} for {counted(spans.number(1, INT) + 1, 'span')}"
            )
        if not (0 <= size <= INT64_MAX >> 1 and blob_size >= 0):
            raise InvalidImageError(f"it says that {blob_size} bytes of the blob are {size} bytes of tar")
        algorithm = spans.number(0, BYTE, GZIP)
        if algorithm == UNCOMPRESSED:
            starts = _tar_starts(checkpoints, blob_size, count)
            digests = list(map(_digest, spans.strings(2)))
            return Ztoc("tar", blob_size, blob_size, starts, starts, bytes(len(starts)), [], digests, _toc(toc, limits))
        if algorithm != GZIP:
            raise UnsupportedError(f"its compression {algorithm} is unknown")
        points = _gzip_points(checkpoints, count)
        if any(start < 0 or bits > 7 or not (bits > 0) <= offset <= blob_size for offset, start, bits, _ in points):
            raise InvalidImageError("a checkpoint outside of the layer")
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
        raise InvalidImageError("it is truncated, or an offset points outside of it") from None


def size_of_gzip(ztoc: Ztoc, tail: bytes) -> int:
    """Return the size of the tar stream in a gzip blob whose last four bytes are `tail`.

    They are the size modulo 2**32 (RFC 1952).

    Raises:
        UnsupportedError: They are not the size of the stream, for example because it has several members.
    """
    padding = (int.from_bytes(tail, "little") - ztoc.size) % (1 << 32)
    if len(tail) != 4 or padding > _PADDING_MAX:
        raise UnsupportedError("the size of the tar stream is unknown: the blob has more than one gzip member")
    return ztoc.size + padding


def write_index(ztoc: Ztoc, layer: ImageLayer, size: int, out: Writer) -> None:
    """Write the LayerIndex of a layer whose tar stream has `size` bytes.

    Raises:
        InvalidImageError: The zTOC describes another layer.
        UnsupportedError: Its spans are too long for random access.
    """
    blob_size = layer.descriptor.size
    if ztoc.blob_size != blob_size:
        raise InvalidImageError(f"it describes a layer of {ztoc.blob_size} bytes, but the layer has {blob_size} bytes")
    starts, offsets = [*ztoc.starts, size], [*ztoc.offsets, blob_size]
    longest = max(b - a for a, b in pairwise(starts))
    if longest > MAX_SPAN:
        raise UnsupportedError(f"it has a span of {longest} bytes, more than {MAX_SPAN}")
    pack = window_packer()
    windows = []
    for start, window in zip(ztoc.starts, ztoc.windows, strict=False):  # an uncompressed layer has no windows
        windows.append(out.size)
        if start:  # the first span has no bytes before it, but a window all the same
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
    """Return the start of each span of an uncompressed layer."""
    if len(checkpoints) != TAR_POINTS.size:
        raise InvalidImageError(f"{len(checkpoints)} bytes of checkpoints, for a layer that needs {TAR_POINTS.size}")
    _, span_size, stated = TAR_POINTS.unpack(checkpoints)
    if stated != size or span_size < min(_SPAN_MIN, max(size, 1)) or -(-size // span_size) != count or not count:
        raise InvalidImageError(f"{count} spans of {span_size} bytes do not add up to {size}")
    return list(range(0, size, span_size))


def _gzip_points(checkpoints: memoryview, count: int) -> list[tuple[int, int, int, memoryview]]:
    """Return offset of the first whole byte, start, bits and window of each checkpoint."""
    if len(checkpoints) < GZIP_HEAD.size:
        raise InvalidImageError(f"{len(checkpoints)} bytes of checkpoints")
    stated, _ = GZIP_HEAD.unpack_from(checkpoints)
    stored, rest = divmod(len(checkpoints) - GZIP_HEAD.size, GZIP_POINT.size)
    if stated != count or not count or rest or stored not in {count, count - 1}:
        raise InvalidImageError(f"{len(checkpoints)} bytes of {stated} checkpoints, for {count} spans")
    points = [] if stored == count else [(IMPLICIT_START, 0, 0, memoryview(b""))]
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
        # A sparse file has fewer bytes in the stream than its size, so the next entry is too near.
        if offset < end + 512:
            raise UnsupportedError(f"entry '{_shown(entry.path)}' begins inside the one before, which may be sparse")
        end = offset + entry.stored + -entry.stored % 512
    return [entry for _, entry in found]


def _entry(table: Table, limits: Limits) -> tuple[int, Entry]:
    """Return an entry and the offset of its content, even if it has none."""
    path = table.string(0)
    try:
        kind = _KINDS.get(table.string(1))
        if kind is None:
            raise unsupported_type(table.string(1)[:NAME_MAX])
        if _RECORD * table.count(13) > limits.extended_header:
            raise limits.passed("extended_header", f"{table.count(13)} pax records")
        records = {each.string(0): each.string(1) for each in table.tables(13)}
        if any(key.startswith(b"GNU.sparse.") for key in records):
            raise UnsupportedError("a sparse file, which a zTOC does not describe completely")
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
    """Parse an RFC 3339 time; return ns since the epoch. Raises InvalidImageError."""
    try:
        return parse_time(text.decode("ascii"))
    except ValueError:
        raise InvalidImageError(f"invalid time '{_shown(text)}'") from None


def _shown(text: bytes) -> str:
    return printable(text[:NAME_MAX])
