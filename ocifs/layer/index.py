"""LayerIndex: everything ocifs knows about a layer, read from one file of the store (`index_format` has its bytes).

Opening an index reads only the summary; merging reads the TOC, and decoding the windows.

The file may change while it is open. The summary stays in memory as it was read. Each use of the other sections
verifies them: a window and the TOC by the checksum of their frame, a reframed span by its digest. Those of a published
index, whose file other processes may write to, have digests too.
"""

import hashlib
import os
import struct
from bisect import bisect_left, bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec
import zstandard
from zlib_ng import zlib_ng

from ocifs.compression import MAX_SPAN, Checkpoint, gzip, zstd
from ocifs.compression.zstd_frame import unpack
from ocifs.errors import InvalidImageError, UnsupportedError
from ocifs.layer.index_format import SIZES, SPAN_DIGEST_SIZE, Summary, unpack_u64
from ocifs.layer.windows import Windows
from ocifs.reader import FileReader
from ocifs.spec.digest import Digest
from ocifs.spec.mediatypes import COMPRESSIONS, Compression
from ocifs.store import StoredFile

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator

    from ocifs.toc import Entry

_TOC_MAX = 4 << 30
_PIECE = 1 << 20

T = TypeVar("T")


class _Path(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The first two fields of an `Entry`; the decoder skips the others."""

    kind: int
    path: bytes


# msgspec learns a type on first use, and crashes if two threads do that at once: so do it during import.
_SUMMARY = msgspec.msgpack.Decoder(Summary)
_PATHS = msgspec.msgpack.Decoder(list[_Path])
_RAW = msgspec.msgpack.Decoder(list[msgspec.Raw])

_PARTS = {"gzip": gzip.part, "zstd": zstd.part}


class LayerIndex:
    """An opened index of a layer's tar; `open_index` opens one."""

    def __init__(
        self,
        file: FileReader,
        summary: Summary,
        data_size: int,
        toc_size: int,
        checksum: int,
        tail: "_Tail | None" = None,
    ) -> None:
        self.file = file
        self.summary = summary
        self.data_size = data_size
        """Bytes of the windows, or of the reframed layer."""
        self._toc_size = toc_size
        self.checksum = checksum
        """CRC-32 of summary and sizes, the parts that stay in memory."""
        self.tail = None if tail is None else tail.digest
        """sha256 of all sections after the data section, if that has verified them."""
        self._toc_digest = None if tail is None else tail.toc_digest
        self.starts = unpack_u64(summary.starts)
        self._offsets = unpack_u64(summary.offsets)
        self.windows = Windows(file, summary)
        self._lengths = unpack_u64(summary.lengths)
        self._skips = unpack_u64(summary.skips)
        if not (self._columns_agree() and self._chunks_agree()):
            raise InvalidImageError("layer index: its columns contradict each other")

    @property
    def name(self) -> str:
        """The layer in errors."""
        return f"layer {self.summary.blob_digest}"

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """The known digests of the tar stream, each by another algorithm."""
        return self.summary.diff_id, *self.summary.diff_ids

    @property
    def stream(self) -> str:
        """Name of the stream: streams with the same name have the same bytes at the same offsets."""
        return self.summary.toc or self.summary.diff_id

    @property
    def span_codec(self) -> Compression:
        """Compression of the bytes that `verified` returns."""
        return self.summary.codec

    def warnings(self, stated: Compression) -> tuple[str, ...]:
        """Return the warnings of a layer whose media type states the compression `stated`.

        The media type does not belong to the blob, so the index never contains warnings about it.
        """
        return *self.mislabelled(stated), *self.summary.warnings

    def mislabelled(self, stated: Compression) -> tuple[str, ...]:
        """Return a warning if the blob has another compression than its media type states, else an empty tuple."""
        actual = self.summary.compression or (None if self.summary.reframed else self.summary.codec)
        if actual is None or actual == stated:  # earlier versions did not store it for a reframed layer
            return ()
        return (f"its media type says {COMPRESSIONS[stated]}, but its bytes are {COMPRESSIONS[actual]}",)

    @property
    def span_count(self) -> int:
        """Number of spans."""
        return len(self.starts) - 1

    @property
    def size(self) -> int:
        """Bytes of the uncompressed tar stream."""
        return self.summary.size

    @property
    def made(self) -> float:
        """When it was built, and blob digest and diff ID verified with it, in seconds since the epoch."""
        return os.fstat(self.file.fd).st_mtime

    @property
    def toc_size(self) -> int:
        """Decompressed bytes of the TOC, as stated in its header."""
        try:
            return max(zstandard.frame_content_size(self.file.pread(32, self.data_size)), 0)
        except zstandard.ZstdError as error:
            raise InvalidImageError(f"layer index: {error}") from None

    def toc(self) -> "list[Entry]":
        """Decode all entries at once, in stream order. `entries` takes a third of the memory."""
        from ocifs.toc.entry import ENTRIES  # not needed for reading files

        return self._decode_toc(ENTRIES)

    def entries(self) -> "Iterator[Entry]":
        """Yield the entries in stream order. Raises InvalidImageError, also between entries."""
        from ocifs.toc.entry import ENTRY

        packed = self._decode_toc(_RAW)
        if len(packed) != self.summary.entries:  # limits check the number in the summary
            raise InvalidImageError(f"layer index: {len(packed)} entries, not {self.summary.entries}")
        for raw in packed:
            try:
                yield ENTRY.decode(raw)
            except (msgspec.MsgspecError, ValueError) as error:
                raise InvalidImageError(f"layer index: {error}") from None

    def packed_toc(self) -> bytes:
        """Return the compressed TOC as it is stored. Raises InvalidImageError if it has changed."""
        packed = self.file.pread(self._toc_size, self.data_size)
        if self._toc_digest not in (None, hashlib.sha256(packed).digest()):
            raise InvalidImageError("layer index: its entries changed since they were checked: try again")
        return packed

    def _decode_toc(self, decoder: msgspec.msgpack.Decoder[T]) -> T:
        packed = self.packed_toc()
        try:
            return decoder.decode(unpack(packed, _TOC_MAX))
        except (InvalidImageError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise InvalidImageError(f"layer index: {error}") from None

    def paths(self) -> "list[tuple[int, bytes]]":
        """Return (kind, path) of the entries, in stream order, with a fraction of the memory of `toc`."""
        return [(entry.kind, entry.path) for entry in self._decode_toc(_PATHS)]

    def stored_range(self, span: int) -> tuple[int, int]:
        """Return (offset, size) of the span's stored bytes; neighbours may share a byte."""
        offset = self._offsets[span]
        return offset, self._offsets[span + 1] + (self.summary.bits[span + 1] > 0) - offset

    def stored_bytes(self, first: int, last: int) -> tuple[int, int]:
        """Return the stored range (start, end) of spans, up to the byte in which the next one begins."""
        return self._offsets[first], self._offsets[last + 1]

    def spans_stored_in(self, start: int, end: int) -> tuple[int, int]:
        """Return the first and last span that overlap the stored bytes from `start` to `end`."""
        first = max(bisect_right(self._offsets, start) - 1, 0)
        return first, min(max(bisect_left(self._offsets, end) - 1, first), self.span_count - 1)

    def digest(self, span: int) -> bytes:
        """Return the sha256 of the span's stored bytes; for a chunk, of its decoded bytes."""
        return self.summary.digests[span * SPAN_DIGEST_SIZE : (span + 1) * SPAN_DIGEST_SIZE]

    def verified(self, span: int, stored: bytes) -> bytes | None:
        """Return `stored` if it has the span's digest, else None."""
        return stored if hashlib.sha256(stored).digest() == self.digest(span) else None

    def span_at(self, offset: int) -> int:
        """Return the span with the byte at `offset`, which must be in the stream."""
        return bisect_right(self.starts, offset) - 1

    def checkpoint(self, span: int) -> Checkpoint:
        """Return the checkpoint at the start of the span, with its window. Raises as `Windows.window`."""
        window = self.windows.window(span)
        return Checkpoint(self.starts[span], self._offsets[span], self.summary.bits[span], window)

    def _columns_agree(self) -> bool:
        """Check that no later read can leave the file or the blob."""
        count = len(self.starts)
        limit = self.data_size if self.summary.reframed else self.summary.blob_size
        return (
            count >= 2
            and len(self._offsets) == len(self.summary.bits) == count
            and self.windows.agree(count, self.data_size)
            and len(self.summary.digests) == (count - 1) * SPAN_DIGEST_SIZE
            and self.starts[0] == 0
            and self.starts[-1] == self.summary.size
            and self._offsets[-1] + (self.summary.bits[-1] > 0) <= limit
            and all(map(_ascending, (self.starts, self._offsets)))
            and all(b - a <= MAX_SPAN for a, b in pairwise(self.starts))
            and max(self.summary.bits) < 8
        )

    def _chunks_agree(self) -> bool:
        return not (self._lengths or self._skips)


class ChunkedIndex(LayerIndex):
    """An opened index made from a TOC: its stream consists of chunks, each a span that is padded with zeros."""

    @property
    def span_codec(self) -> Compression:
        """Compression of the bytes that `verified` returns: none."""
        return "tar"

    def stored_range(self, span: int) -> tuple[int, int]:
        """Return (offset, size) of the span's stored bytes, the member that it shares with other chunks."""
        offset = self._offsets[span]
        return offset, self._offsets[min(bisect_right(self._offsets, offset, span), self.span_count)] - offset

    def chunk_length(self, span: int) -> int:
        """Return the number of bytes in a chunk."""
        return self._lengths[span]

    def verified(self, span: int, stored: bytes) -> bytes | None:
        """Return the decoded span if its chunk in `stored` has the digest, else None."""
        try:
            data = _PARTS[self.summary.codec](stored, self._skips[span], self._lengths[span])
        except InvalidImageError:
            return None
        if hashlib.sha256(data).digest() != self.digest(span):
            return None
        return data.ljust(self.starts[span + 1] - self.starts[span], b"\0")

    def _chunks_agree(self) -> bool:
        sizes = [end - begin for begin, end in pairwise(self.starts)]
        return (
            len(self._lengths) == len(self._skips) == len(sizes)
            and all(length <= size for length, size in zip(self._lengths, sizes, strict=True))
            and self.summary.codec in _PARTS
            and not self.summary.reframed
            and not any(self.summary.bits)
            and 0 <= self.summary.first <= len(sizes)
        )


class _Tail(NamedTuple):
    """The verified digests of the sections after the data section, all together, and of the TOC alone; sha256."""

    digest: bytes
    toc_digest: bytes


def open_index(file: FileReader, checksum: int | None = None, tail: bytes | None = None) -> LayerIndex:
    """Open an index; with `checksum`, only the one that had this `checksum` in another process.

    With `tail`, the sha256 of all sections after the data section, only the one whose sections match it.

    Raises InvalidImageError if the file is not an index, or another one.
    """
    sizes = file.pread(SIZES.size, max(0, file.size - SIZES.size))
    try:
        data_size, toc_size, summary_size = SIZES.unpack(sizes)
        if data_size + toc_size + summary_size + SIZES.size != file.size:
            raise InvalidImageError("layer index: its sections do not fill the file")
        packed = file.pread(summary_size, data_size + toc_size)
        found = zlib_ng.crc32(sizes, zlib_ng.crc32(packed))
        if checksum not in (None, found):
            raise InvalidImageError("layer index: changed since it was checked: try again")
        verified = None if tail is None else _verified_tail(file, data_size, toc_size, packed + sizes, tail)
        summary = _SUMMARY.decode(packed)
        for digest in (
            summary.blob_digest,
            summary.diff_id,
            *summary.diff_ids,
            *([summary.toc] if summary.toc else []),
        ):
            Digest(digest)  # messages quote them
        return (ChunkedIndex if summary.toc else LayerIndex)(file, summary, data_size, toc_size, found, verified)
    except (struct.error, msgspec.MsgspecError, ValueError, UnsupportedError) as error:  # not UTF-8, or half a number
        raise InvalidImageError(f"layer index: {error}") from None


def _verified_tail(file: FileReader, offset: int, toc_size: int, rest: bytes, digest: bytes) -> _Tail:
    """Verify the TOC at `offset`, followed by `rest`, by the digest of both. Raises InvalidImageError."""
    hasher = hashlib.sha256()
    for position in range(offset, offset + toc_size, _PIECE):
        hasher.update(file.pread(min(_PIECE, offset + toc_size - position), position))
    toc_digest = hasher.digest()
    hasher.update(rest)
    if hasher.digest() != digest:
        raise InvalidImageError("layer index: its last sections have another digest than the artifact states")
    return _Tail(digest, toc_digest)


def index_in(file: StoredFile, blob: Digest) -> LayerIndex | None:
    """Return the index in a file of the store if it describes the blob with that digest; else close the file."""
    try:
        index = open_index(file)
    except InvalidImageError:
        pass
    else:
        if index.summary.blob_digest == blob:
            return index
    file.close()
    return None


def _ascending(column: "array[int]") -> bool:
    return all(a <= b for a, b in pairwise(column))
