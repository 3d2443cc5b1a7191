"""LayerIndex: all that is known of a layer, as one file of the store.

    data | TOC | summary | sizes of the three (3 x u64, little-endian)

The data section holds what decoding a span needs besides the blob: each gzip window as a zstd frame, or, where the
blob has no place to restart in, the whole stream as short zstd frames. The TOC is MessagePack in zstd, the summary
MessagePack. Opening one reads the summary only; the TOC is for whoever merges, the windows for whoever decodes.

The file may change while it is open: the summary stays in memory as it was read, and each use of the other sections
checks them, a window and the TOC by the checksum of their frame, a reframed span by its digest.
"""

import hashlib
import os
import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec
import zstandard
from zlib_ng import zlib_ng

from ocifs.compression import MAX_SPAN, Checkpoint, gzip, zstd
from ocifs.compression.zstd_frame import unpack
from ocifs.errors import InvalidImageError
from ocifs.reader import FileReader
from ocifs.spec.digest import Digest
from ocifs.spec.mediatypes import COMPRESSIONS, Compression
from ocifs.store import Kind, StoredFile

if TYPE_CHECKING:
    from ocifs.toc import Entry

KIND = Kind("layer", 2)

SPAN_DIGEST_SIZE = 32
"""Spans are digested with sha256, whatever the blob's own digest is made with."""

_SIZES = struct.Struct("<QQQ")
_WINDOW_MAX = 1 << 15
_TOC_MAX = 4 << 30


T = TypeVar("T")


class _Path(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The first two fields of an `Entry`; the decoder passes over the others."""

    kind: int
    path: bytes


class Summary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What opening a layer needs. The columns have one element for each checkpoint, the end being the last."""

    blob_digest: str
    blob_size: int
    diff_id: str
    """Digest of the tar stream: sha256, unless the index was converted for an image that names it by another one."""
    size: int
    """Bytes of the uncompressed tar stream."""
    codec: Compression
    """How a span is decoded."""
    reframed: bool
    """Whether spans lie in the data section of this file, not in the blob."""
    entries: int
    starts: bytes
    """u64 each: offset in the tar stream."""
    offsets: bytes
    """u64 each: offset in the blob, or in the data section."""
    bits: bytes
    """u8 each: top bits of the byte at the offset that belong to the span."""
    windows: bytes
    """u64 each: where in the data section the span's window begins; empty columns and windows are allowed."""
    digests: bytes
    """32 bytes for each span: sha256 of its bytes as stored; of a chunk, of its bytes when they are decoded."""
    warnings: tuple[str, ...]
    compression: Literal["", "tar", "gzip", "zstd"] = ""
    """How the blob is compressed, where it is reframed; else `codec` says it."""
    toc: str = ""
    """Digest of the TOC in the blob that it was made of: the stream is then the chunks that this lists, each a span,
    and no tar. None: the stream is the tar."""
    lengths: bytes = b""
    """u64 for each chunk: bytes of it; what its span has more is zero."""
    skips: bytes = b""
    """u64 for each chunk: where it begins in the decoded member that begins at the offset."""
    first: int = 0
    """How many chunks, from the first on, whoever starts will want."""
    diff_ids: tuple[str, ...] = ()
    """Digests of the tar stream by further algorithms, by which images have named it."""


# msgspec learns a type when it first meets it, and crashes where two threads do that at once: so let it happen here.
_SUMMARY = msgspec.msgpack.Decoder(Summary)
_PATHS = msgspec.msgpack.Decoder(list[_Path])
_RAW = msgspec.msgpack.Decoder(list[msgspec.Raw])

_PARTS = {"gzip": gzip.part, "zstd": zstd.part}


def pack_u64(numbers: Iterable[int]) -> bytes:
    """Return a column of little-endian u64."""
    column = array("Q", numbers)
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()


def _unpack_u64(data: bytes) -> "array[int]":
    column = array("Q", data)
    if sys.byteorder == "big":
        column.byteswap()
    return column


class TocWriter:
    """A TOC while it is made: entries are encoded as they come, which takes a fraction of their memory as objects."""

    def __init__(self) -> None:
        self.count = 0
        self._entries = bytearray()
        self._encode = msgspec.msgpack.Encoder().encode_into

    def add(self, entry: "Entry") -> None:
        """Append an entry."""
        self.count += 1
        self._encode(entry, self._entries, -1)

    def packed(self) -> bytes:
        """Return the TOC as it is stored."""
        head = _array_head(self.count)
        packer = zstandard.ZstdCompressor(level=3, write_checksum=True).compressobj(size=len(head) + len(self._entries))
        return packer.compress(head) + packer.compress(self._entries) + packer.flush()


def _array_head(count: int) -> bytes:
    """Return how a MessagePack array of `count` elements begins (specification, "array format family")."""
    if count < 1 << 4:
        return bytes([0x90 | count])
    return b"\xdc" + count.to_bytes(2, "big") if count < 1 << 16 else b"\xdd" + count.to_bytes(4, "big")


def encode_tail(toc: "Iterable[Entry]", summary: Summary, data_size: int) -> bytes:
    """Return what follows the data section."""
    writer = TocWriter()
    for entry in toc:
        writer.add(entry)
    return join_tail(writer.packed(), summary, data_size)


def join_tail(packed_toc: bytes, summary: Summary, data_size: int) -> bytes:
    """Return what follows the data section, with a packed TOC."""
    packed_summary = msgspec.msgpack.encode(summary)
    return b"".join((packed_toc, packed_summary, _SIZES.pack(data_size, len(packed_toc), len(packed_summary))))


class LayerIndex:
    """An opened LayerIndex."""

    def __init__(self, file: FileReader, checksum: int | None = None) -> None:
        """Open one; with `checksum` the one that another process has opened, which had this `checksum`.

        Raises InvalidImageError when the file does not hold it.
        """
        self.file = file
        try:
            sizes = file.pread(_SIZES.size, max(0, file.size - _SIZES.size))
            self._data_size, self._toc_size, summary_size = _SIZES.unpack(sizes)
            if self._data_size + self._toc_size + summary_size + _SIZES.size != file.size:
                raise InvalidImageError("layer index: its sections do not fill the file")
            packed = file.pread(summary_size, self._data_size + self._toc_size)
            self.checksum = zlib_ng.crc32(sizes, zlib_ng.crc32(packed))
            """CRC-32 of summary and sizes: of all that is kept in memory."""
            if checksum not in (None, self.checksum):
                raise InvalidImageError("layer index: changed since it was checked: try again")
            self.summary = _SUMMARY.decode(packed)
            self.starts = _unpack_u64(self.summary.starts)
            self._offsets = _unpack_u64(self.summary.offsets)
            self._windows = _unpack_u64(self.summary.windows)
            self._lengths = _unpack_u64(self.summary.lengths)
            self._skips = _unpack_u64(self.summary.skips)
        except (struct.error, msgspec.MsgspecError, ValueError) as error:  # ValueError: no UTF-8, half a number
            raise InvalidImageError(f"layer index: {error}") from None
        self._check_columns()
        self._last_proven = (-1, b"")

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """The digests that are known of the tar stream, each by another algorithm."""
        return self.summary.diff_id, *self.summary.diff_ids

    @property
    def stream(self) -> str:
        """What names the stream: two with the same name have the same bytes at the same places."""
        return self.summary.toc or self.summary.diff_id

    def warnings(self, stated: Compression) -> tuple[str, ...]:
        """Return the warnings of a layer whose media type says the compression `stated`.

        Media types are no property of the blob, so what depends on one is never kept in the index.
        """
        return *self.mislabelled(stated), *self.summary.warnings

    def mislabelled(self, stated: Compression) -> tuple[str, ...]:
        """Return a warning if the blob is compressed otherwise than its media type says, else nothing."""
        actual = self.summary.compression or (None if self.summary.reframed else self.summary.codec)
        if actual is None or actual == stated:  # an earlier version did not keep it for a reframed layer
            return ()
        return (f"its media type says {COMPRESSIONS[stated]}, but its bytes are {COMPRESSIONS[actual]}",)

    @property
    def span_count(self) -> int:
        """How many spans there are."""
        return len(self.starts) - 1

    @property
    def size(self) -> int:
        """Bytes of the uncompressed tar stream."""
        return self.summary.size

    @property
    def made(self) -> float:
        """When it was made, and blob digest and diff ID proven with it: seconds since the epoch."""
        return os.fstat(self.file.fd).st_mtime

    @property
    def toc_size(self) -> int:
        """Bytes that the TOC claims to have when it is decompressed."""
        try:
            return max(zstandard.frame_content_size(self.file.pread(32, self._data_size)), 0)
        except zstandard.ZstdError as error:
            raise InvalidImageError(f"layer index: {error}") from None

    def toc(self) -> "list[Entry]":
        """Decode the entries, in stream order, all at once. `entries` takes a third of the memory."""
        from ocifs.toc.entry import ENTRIES  # whoever only reads files has no use for it

        return self._decode_toc(ENTRIES)

    def entries(self) -> "Iterator[Entry]":
        """Decode one entry after the other, in stream order. Raises InvalidImageError, also between entries."""
        from ocifs.toc.entry import ENTRY

        packed = self._decode_toc(_RAW)
        if len(packed) != self.summary.entries:  # which is what limits look at
            raise InvalidImageError(f"layer index: {len(packed)} entries, not {self.summary.entries}")
        for raw in packed:
            try:
                yield ENTRY.decode(raw)
            except (msgspec.MsgspecError, ValueError) as error:
                raise InvalidImageError(f"layer index: {error}") from None

    def _decode_toc(self, decoder: msgspec.msgpack.Decoder[T]) -> T:
        packed = self.file.pread(self._toc_size, self._data_size)
        try:
            return decoder.decode(unpack(packed, _TOC_MAX))
        except (InvalidImageError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise InvalidImageError(f"layer index: {error}") from None

    def paths(self) -> "list[tuple[int, bytes]]":
        """Decode (kind, path) of the entries, in stream order: a fraction of what `toc` takes."""
        return [(entry.kind, entry.path) for entry in self._decode_toc(_PATHS)]

    def stored_range(self, span: int) -> tuple[int, int]:
        """Return (offset, size) of the span's bytes as stored; neighbours may share a byte, and chunks a member."""
        offset = self._offsets[span]
        if self.summary.toc:
            return offset, self._offsets[min(bisect_right(self._offsets, offset, span), self.span_count)] - offset
        return offset, self._offsets[span + 1] + (self.summary.bits[span + 1] > 0) - offset

    def stored_bytes(self, first: int, last: int) -> tuple[int, int]:
        """Return from where to where spans lie, up to the byte in which the next one begins."""
        return self._offsets[first], self._offsets[last + 1]

    def spans_stored_in(self, start: int, end: int) -> tuple[int, int]:
        """Return the first and last span of those that lie in the bytes from `start` to `end`, or reach into them."""
        first = max(bisect_right(self._offsets, start) - 1, 0)
        return first, min(max(bisect_left(self._offsets, end) - 1, first), self.span_count - 1)

    def digest(self, span: int) -> bytes:
        """Return the sha256 of the span's bytes as stored; of a chunk, of its bytes when they are decoded."""
        return self.summary.digests[span * SPAN_DIGEST_SIZE : (span + 1) * SPAN_DIGEST_SIZE]

    def proves(self, span: int, stored: bytes) -> bool:
        """Whether these are the span's bytes as stored; those of a chunk are decoded for that."""
        if not self.summary.toc:
            return hashlib.sha256(stored).digest() == self.digest(span)
        try:
            data = _PARTS[self.summary.codec](stored, self._skips[span], self._lengths[span])
        except InvalidImageError:
            return False
        if hashlib.sha256(data).digest() != self.digest(span):
            return False
        self._last_proven = span, data
        return True

    def span_at(self, offset: int) -> int:
        """Return the number of the span that holds the byte at `offset`, which lies in the stream."""
        return bisect_right(self.starts, offset) - 1

    def chunk_length(self, span: int) -> int:
        """Return how many bytes a chunk has."""
        return self._lengths[span]

    def chunk(self, span: int, stored: bytes) -> bytes:
        """Return a span that is a chunk, zeros behind it, whose stored bytes are proven. Raises InvalidImageError."""
        number, data = self._last_proven  # by this very reader, as a rule
        if number != span:
            data = _PARTS[self.summary.codec](stored, self._skips[span], self._lengths[span])
        return data.ljust(self.starts[span + 1] - self.starts[span], b"\0")

    def checkpoint(self, span: int) -> Checkpoint:
        """Return the checkpoint at which the span begins, with its window."""
        return Checkpoint(self.starts[span], self._offsets[span], self.summary.bits[span], self._window(span))

    def _window(self, span: int) -> bytes:
        if not self._windows:
            return b""
        begin, end = self._windows[span], self._windows[span + 1]
        if begin == end:
            return b""
        try:
            return unpack(self.file.pread(end - begin, begin), _WINDOW_MAX)
        except InvalidImageError as error:
            raise InvalidImageError(
                f"layer {self.summary.blob_digest}: window of span {span}: {error}: the cache was changed or damaged"
            ) from None

    def _check_columns(self) -> None:
        """Make sure that no later read can go outside of anything."""
        count = len(self.starts)
        limit = self._data_size if self.summary.reframed else self.summary.blob_size
        consistent = (
            count >= 2
            and len(self._offsets) == len(self.summary.bits) == count
            and len(self._windows) in (0, count)
            and len(self.summary.digests) == (count - 1) * SPAN_DIGEST_SIZE
            and self.starts[0] == 0
            and self.starts[-1] == self.summary.size
            and self._offsets[-1] + (self.summary.bits[-1] > 0) <= limit
            and (not self._windows or self._windows[-1] <= self._data_size)
            and all(map(_ascending, (self.starts, self._offsets, self._windows)))
            and all(b - a <= MAX_SPAN for a, b in pairwise(self.starts))
            and max(self.summary.bits) < 8
            and self._check_chunks()
        )
        if not consistent:
            raise InvalidImageError("layer index: its columns contradict each other")

    def _check_chunks(self) -> bool:
        if not self.summary.toc:
            return not (self._lengths or self._skips)
        sizes = [end - begin for begin, end in pairwise(self.starts)]
        return (
            len(self._lengths) == len(self._skips) == len(sizes)
            and all(length <= size for length, size in zip(self._lengths, sizes, strict=True))
            and self.summary.codec in _PARTS
            and not self.summary.reframed
            and not any(self.summary.bits)
            and 0 <= self.summary.first <= len(sizes)
        )


def index_in(file: StoredFile, blob: Digest) -> LayerIndex | None:
    """Return the index in an entry of the store, if it is one of the blob with that digest; else close the file."""
    try:
        index = LayerIndex(file)
    except InvalidImageError:
        pass
    else:
        if index.summary.blob_digest == blob:
            return index
    file.close()
    return None


def _ascending(column: "array[int]") -> bool:
    return all(a <= b for a, b in pairwise(column))
