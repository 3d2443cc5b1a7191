"""The bytes of a hot pack: a head that lists all blocks with their digests, and frames of blocks.

    magic (8) | bytes of the packed head (u32) | its sha256 (32) | packed head | frames

The head is MessagePack in zstd. A frame is one zstd frame with the bytes of consecutive blocks. A block is a piece of a
layer's tar stream, in whole pages. Blocks are in order of first use and do not overlap. So a reader of the head can
find any byte, and can decode the frames as they arrive.

A pack is untrusted: `read_table` bounds every number in it, and each block is verified by its digest when it is
decoded.
"""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import msgspec
import zstandard

from ocifs.compression.zstd_frame import unpack
from ocifs.errors import InvalidImageError
from ocifs.layer.index_format import pack_u64, unpack_u64
from ocifs.reader import ReaderAt

if TYPE_CHECKING:
    from array import array

PAGE: Final = 4096
BLOCK_MAX: Final = 128 << 10
"""Maximum bytes of a block: what a digest covers."""
FRAME_MAX: Final = 1 << 20
"""Maximum decoded bytes of a frame."""
DIGEST_SIZE: Final = 32

_MAGIC: Final = b"ocifshp1"
_START: Final = struct.Struct("<8sI32s")
_PACKED_MAX: Final = 16 << 20
_HEAD_MAX: Final = 32 << 20
_BLOCKS_MAX: Final = 1 << 18
_RECORDINGS_MAX: Final = 1 << 14
"""Maximum recordings in a pack; each has added 64 KiB or more."""
_STREAMS_MAX: Final = 1 << 14
_NAME_MAX: Final = 256
_STORED_MAX: Final = FRAME_MAX + (FRAME_MAX >> 8) + 64
"""Maximum bytes of a frame as stored: ZSTD_compressBound of its decoded bytes, and some."""


_Column = Annotated[bytes, msgspec.Meta(max_length=8 * _BLOCKS_MAX)]
_Name = Annotated[str, msgspec.Meta(max_length=_NAME_MAX)]
_Recorded = tuple[Annotated[int, msgspec.Meta(ge=0)], Annotated[int, msgspec.Meta(ge=0)]]


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a pack. The columns have one element for each block, or for each frame."""

    streams: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=_STREAMS_MAX)]
    """`LayerIndex.stream` of each layer of the image, the base first."""
    layers: _Column
    """u64: the layer of each block."""
    offsets: _Column
    """u64: its offset in the tar stream."""
    sizes: _Column
    """u64: its bytes."""
    digests: Annotated[bytes, msgspec.Meta(max_length=DIGEST_SIZE * _BLOCKS_MAX)]
    """32 bytes: the sha256 of its bytes."""
    counts: _Column
    """u64: the blocks in each frame."""
    stored: _Column
    """u64: its bytes as stored."""
    recordings: Annotated[tuple[_Recorded, ...], msgspec.Meta(max_length=_RECORDINGS_MAX)] = ()
    """(time in seconds since the epoch, blocks) of each recording that the pack was made of, the oldest first.

    The time is 0 for one that may be a scan of all files.
    """


class Block(msgspec.Struct, frozen=True, gc=False):
    """A piece of a layer's tar stream."""

    layer: int
    offset: int
    size: int
    digest: bytes

    @property
    def end(self) -> int:
        """Where it ends in the stream."""
        return self.offset + self.size


class PackFrame(msgspec.Struct, frozen=True):
    """Consecutive blocks that are compressed together, as stored bytes in the file."""

    blocks: tuple[Block, ...]
    offset: int
    stored: int

    def decode(self, stored: bytes) -> list[memoryview] | None:
        """Return the bytes of each block, or None if any of them is wrong."""
        try:
            data = memoryview(unpack(stored, FRAME_MAX))
        except InvalidImageError:
            return None
        if len(data) != sum(block.size for block in self.blocks):
            return None
        views = []
        for block in self.blocks:
            view, data = data[: block.size], data[block.size :]
            if hashlib.sha256(view).digest() != block.digest:
                return None
            views.append(view)
        return views


_HEAD = msgspec.msgpack.Decoder(Head)


class PackTable(msgspec.Struct, frozen=True):
    """The decoded head of a pack."""

    streams: tuple[str, ...]
    frames: tuple[PackFrame, ...]
    recordings: tuple[tuple[int, int], ...]
    start: int
    """Where the first frame begins."""
    end: int
    """Bytes of the whole file."""
    size: int
    """Decoded bytes of all blocks."""


class Stream(NamedTuple):
    """The tar stream of a layer."""

    name: str
    """`LayerIndex.stream`."""
    size: int


def read_table(file: ReaderAt, streams: Sequence[Stream], limit: int, digest: bytes | None = None) -> PackTable:
    """Read the head of a pack of layers with these streams, of up to `limit` decoded bytes.

    Its sha256 must be `digest`, if given.

    Raises:
        InvalidImageError: It is not a hot pack, has another version or layers, or has an impossible number.
    """
    head, start = _read_head(file, digest)
    try:
        layers, offsets, lengths = map(unpack_u64, (head.layers, head.offsets, head.sizes))
        counts, stored = map(unpack_u64, (head.counts, head.stored))
    except (InvalidImageError, ValueError) as error:
        raise _wrong(str(error)) from None
    if head.streams != tuple(stream.name for stream in streams):
        raise _wrong("it belongs to other layers")
    if (size := sum(lengths)) > limit:
        raise _wrong(f"it has {size} bytes, more than {limit}")
    blocks = _blocks(head, layers, offsets, lengths, [stream.size for stream in streams])
    if sum(count for _, count in head.recordings) > len(blocks):
        raise _wrong("its recordings contradict its blocks")
    frames = _frames(blocks, counts, stored, start)
    end = frames[-1].offset + frames[-1].stored if frames else start
    if file.size != end:
        raise _wrong("it is truncated")
    return PackTable(head.streams, frames, head.recordings, start, end, size)


def stated_streams(file: ReaderAt, digest: bytes | None = None) -> tuple[str, ...]:
    """Return the names of the streams that a pack claims to be of; its head has the sha256 `digest`, if given.

    Raises:
        InvalidImageError: It is not a hot pack, or has another version.
    """
    return _read_head(file, digest)[0].streams


def _read_head(file: ReaderAt, digest: bytes | None) -> tuple[Head, int]:
    """Return the head of a pack, and where its frames begin. Raises InvalidImageError."""
    packed_size, stated = _read_start(file.pread(_START.size, 0), digest)
    packed = file.pread(packed_size, _START.size)
    if hashlib.sha256(packed).digest() != stated:
        raise _wrong("its head is damaged")
    try:
        return _HEAD.decode(unpack(packed, _HEAD_MAX)), _START.size + packed_size
    except (InvalidImageError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _wrong(str(error)) from None


def frames_start(file: ReaderAt, digest: bytes) -> int:
    """Return where the frames of a pack begin, whose head has the sha256 `digest`.

    Raises:
        InvalidImageError: The file begins with another head, or with a part of it.
    """
    packed_size, stated = _read_start(file.pread(_START.size, 0), digest)
    if hashlib.sha256(file.pread(packed_size, _START.size)).digest() != stated:
        raise _wrong("its head is damaged")
    return _START.size + packed_size


def with_head(pieces: Iterator[bytes], digest: bytes) -> Iterator[bytes]:
    """Yield the pieces of a pack that arrives, but its head in one piece, once that has the sha256 `digest`.

    Raises:
        InvalidImageError: The file begins with another head, or with a part of it.
    """
    begun = bytearray()
    end = _START.size
    for piece in pieces:
        begun += piece
        if len(begun) >= end == _START.size:
            end += _read_start(bytes(begun[:end]), digest)[0]
        if len(begun) >= end:
            break
    if hashlib.sha256(begun[_START.size : end]).digest() != digest:
        raise _wrong("its head is damaged")
    yield bytes(begun)
    yield from pieces


def _read_start(start: bytes, digest: bytes | None) -> tuple[int, bytes]:
    """Return the bytes of the packed head, and its sha256, which is `digest`, if given. Raises InvalidImageError."""
    try:
        magic, packed_size, stated = _START.unpack(start)
    except struct.error:
        raise _wrong("it is too short") from None
    if magic != _MAGIC:
        raise _wrong("it has another version")
    if packed_size > _PACKED_MAX or (digest is not None and stated != digest):
        raise _wrong("its head has another digest")
    return packed_size, stated


def _blocks(
    head: Head, layers: "array[int]", offsets: "array[int]", lengths: "array[int]", sizes: Sequence[int]
) -> list[Block]:
    count = len(layers)
    if not (
        count <= _BLOCKS_MAX and len(offsets) == len(lengths) == count and len(head.digests) == count * DIGEST_SIZE
    ):
        raise _wrong("its columns contradict each other")
    if count > sum(lengths) // PAGE + len(sizes):  # before memory is spent on them
        raise _wrong("its blocks are not in whole pages")
    ends: dict[int, int] = {}
    for layer, offset, length in sorted(zip(layers, offsets, lengths, strict=True)):
        if not (
            layer < len(sizes) and 0 < length <= BLOCK_MAX and ends.get(layer, 0) <= offset <= sizes[layer] - length
        ):
            raise _wrong("a block is outside of its layer, or overlaps another one")
        ends[layer] = offset + length
        if offset % PAGE or (length % PAGE and ends[layer] != sizes[layer]):
            raise _wrong("its blocks are not in whole pages")
    digests = [head.digests[at : at + DIGEST_SIZE] for at in range(0, count * DIGEST_SIZE, DIGEST_SIZE)]
    return [Block(*each) for each in zip(layers, offsets, lengths, digests, strict=True)]


def _frames(blocks: list[Block], counts: "array[int]", stored: "array[int]", start: int) -> tuple[PackFrame, ...]:
    if len(counts) != len(stored) or sum(counts) != len(blocks) or (counts and min(counts) < 1):
        raise _wrong("its frames contradict its blocks")
    frames = []
    first = 0
    for count, size in zip(counts, stored, strict=True):
        frame = PackFrame(tuple(blocks[first : first + count]), start, size)
        if size > _STORED_MAX or sum(block.size for block in frame.blocks) > FRAME_MAX:
            raise _wrong("a frame is too large")
        frames.append(frame)
        first, start = first + count, start + size
    return tuple(frames)


def encode_head(
    streams: tuple[str, ...], frames: Sequence[tuple[Sequence[Block], int]], recordings: tuple[tuple[int, int], ...]
) -> bytes:
    """Return the start of a file, up to the first frame; `frames` are the blocks and stored bytes of each."""
    blocks = [block for frame, _ in frames for block in frame]
    head = Head(
        streams=streams,
        layers=pack_u64(block.layer for block in blocks),
        offsets=pack_u64(block.offset for block in blocks),
        sizes=pack_u64(block.size for block in blocks),
        digests=b"".join(block.digest for block in blocks),
        counts=pack_u64(len(frame) for frame, _ in frames),
        stored=pack_u64(stored for _, stored in frames),
        recordings=recordings,
    )
    packed = zstandard.ZstdCompressor(level=9).compress(msgspec.msgpack.encode(head))
    return _START.pack(_MAGIC, len(packed), hashlib.sha256(packed).digest()) + packed


def head_digest(file: ReaderAt) -> bytes:
    """Return the sha256 of the head that a pack states."""
    digest: bytes = _START.unpack(file.pread(_START.size, 0))[2]
    return digest


def _wrong(why: str) -> InvalidImageError:
    return InvalidImageError(f"hot pack: {why}")
