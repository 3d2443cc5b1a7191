"""The bytes of a LayerIndex, one file of the store, and how to write them.

    data | TOC | summary | sizes of the three (3 x u64, little-endian)

The data section contains what decoding a span needs besides the blob: each gzip window as a zstd frame, or, for a blob
without checkpoints, the whole stream as short zstd frames. The TOC is MessagePack in zstd, the summary is MessagePack.
"""

import struct
import sys
from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import msgspec
import zstandard

from ocifs.spec.mediatypes import Compression
from ocifs.store import Kind

if TYPE_CHECKING:
    from ocifs.toc import Entry

KIND = Kind("layer", 2)

SPAN_DIGEST_SIZE = 32
"""Span digests are sha256, whatever the algorithm of the blob's digest."""

SIZES = struct.Struct("<QQQ")


class Summary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The data needed to open a layer. Columns have one element per checkpoint; the last one is the end."""

    blob_digest: str
    blob_size: int
    diff_id: str
    """Digest of the tar stream: sha256, unless the index was converted for an image that uses another algorithm."""
    size: int
    """Bytes of the uncompressed tar stream."""
    codec: Compression
    """Compression of the spans."""
    reframed: bool
    """Whether spans are in the data section of this file, not in the blob."""
    entries: int
    starts: bytes
    """u64 each: offset in the tar stream."""
    offsets: bytes
    """u64 each: offset in the blob, or in the data section."""
    bits: bytes
    """u8 each: how many top bits of the byte at the offset belong to the span."""
    windows: bytes
    """u64 each: offset of the span's window in the data section; the column and windows may be empty."""
    digests: bytes
    """32 bytes for each span: sha256 of its stored bytes; for a chunk, of its decoded bytes."""
    warnings: tuple[str, ...]
    compression: Literal["", "tar", "gzip", "zstd"] = ""
    """Compression of the blob, if it is reframed; else it equals `codec`."""
    toc: str = ""
    """Digest of the TOC in the blob that the index was made from. Then the stream consists of the TOC's chunks, each a
    span. Empty: the stream is the tar."""
    lengths: bytes = b""
    """u64 for each chunk: its bytes; the rest of its span is zero."""
    skips: bytes = b""
    """u64 for each chunk: its offset in the decoded member that begins at `offsets`."""
    first: int = 0
    """How many of the first chunks to prefetch, because the image reads them when it starts."""
    untrimmed: bool = False
    """Whether windows have bytes that the stream never refers to, and are to be trimmed (`ocifs.layer.trimming`)."""
    diff_ids: tuple[str, ...] = ()
    """Digests of the tar stream by other algorithms that images use."""
    window_digests: bytes = b""
    """32 bytes for each span: sha256 of its window as stored. Only published indexes have them."""


def pack_u64(numbers: Iterable[int]) -> bytes:
    """Return a column of little-endian u64."""
    column = array("Q", numbers)
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()


def unpack_u64(data: bytes) -> "array[int]":
    """Return the numbers of a column. Raises ValueError for half a number."""
    column = array("Q", data)
    if sys.byteorder == "big":
        column.byteswap()
    return column


class TocWriter:
    """A TOC under construction: entries are encoded at once, which takes a fraction of their memory as objects."""

    def __init__(self) -> None:
        self.count = 0
        self._entries = bytearray()
        self._encode = msgspec.msgpack.Encoder().encode_into

    def add(self, entry: "Entry") -> None:
        """Append an entry."""
        self.count += 1
        self._encode(entry, self._entries, -1)

    def packed(self) -> bytes:
        """Return the compressed TOC."""
        head = _array_head(self.count)
        packer = zstandard.ZstdCompressor(level=3, write_checksum=True).compressobj(size=len(head) + len(self._entries))
        return packer.compress(head) + packer.compress(self._entries) + packer.flush()


def _array_head(count: int) -> bytes:
    """Return the head of a MessagePack array of `count` elements (specification, "array format family")."""
    if count < 1 << 4:
        return bytes([0x90 | count])
    return b"\xdc" + count.to_bytes(2, "big") if count < 1 << 16 else b"\xdd" + count.to_bytes(4, "big")


def encode_tail(toc: "Iterable[Entry]", summary: Summary, data_size: int) -> bytes:
    """Return the sections after the data section."""
    writer = TocWriter()
    for entry in toc:
        writer.add(entry)
    return join_tail(writer.packed(), summary, data_size)


def join_tail(packed_toc: bytes, summary: Summary, data_size: int) -> bytes:
    """Return the sections after the data section, with a compressed TOC."""
    packed_summary = msgspec.msgpack.encode(summary)
    return b"".join((packed_toc, packed_summary, SIZES.pack(data_size, len(packed_toc), len(packed_summary))))
