"""Make a hot pack of recorded ranges, or extend one.

The blocks of a pack keep their places, and new ranges follow. If they exceed the bound, recordings older than a week
are dropped, and one that may be a scan of all files; if that does not suffice, the rest of the new one is left out. So
two workloads that together exceed the bound do not evict each other at every start, and unused blocks disappear in the
end. A pack that is over the bound stays as it is: other mounts may have a larger one. Every frame of the old pack is
verified.
"""

import hashlib
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

import zstandard

from ocifs.errors import InvalidImageError, NotFoundError, RegistryError
from ocifs.hotpack.format import BLOCK_MAX, Block, PackFrame, PackTable, encode_head
from ocifs.hotpack.recording import Range
from ocifs.layer.layer import Layer
from ocifs.reader import ReaderAt

_FRAME: Final = 256 << 10
"""Decoded bytes of a frame, which a reader may have to wait for: less than a millisecond."""
_LEVEL: Final = 3
_COMPACT_FRAME: Final = 1 << 20
_COMPACT_LEVEL: Final = 19
"""Takes a second for each 3 MB, once for each publication."""
_WEEK: Final = 7 * 86400

_Made = tuple[tuple[Block, ...], bytes]
"""The blocks of a frame, and its stored bytes."""


class Built(NamedTuple):
    """A pack as parts of a file."""

    parts: list[bytes]
    size: int
    """Decoded bytes."""
    added: int
    """Decoded bytes that are new."""
    kept: int
    """Decoded bytes of the old pack."""


class _Recording(NamedTuple):
    time: int
    frames: list[_Made]

    @property
    def size(self) -> int:
        return sum(block.size for blocks, _ in self.frames for block in blocks)

    @property
    def blocks(self) -> int:
        return sum(len(blocks) for blocks, _ in self.frames)


def build_pack(  # noqa: PLR0913 - the last three have defaults for all but one caller
    layers: Sequence[Layer],
    found: Callable[[list[Range]], list[Range]],
    limit: int,
    old: tuple[ReaderAt, PackTable] | None = None,
    now: float | None = None,
    *,
    is_scan: bool = False,
    read: Callable[[Range], bytes | None] = lambda each: None,
) -> Built:
    """Return a pack of at most `limit` decoded bytes with the blocks of `old` and the ranges that `found` returns.

    `found` gets the ranges that the pack has. `read` may know the bytes of a range without decoding a layer. A range
    that cannot be read is left out, and so are all after one for which a registry does not answer. If the recording
    `is_scan`, the next one may take its room.
    """
    now = time.time() if now is None else now
    kept = [] if old is None else _recordings(*old, int(now))
    new = found([(block.layer, block.offset, block.end) for each in kept for made in each.frames for block in made[0]])
    if sum(each.size for each in kept) > limit:
        new = []
    wanted = min(sum(end - begin for _, begin, end in new), limit)
    while new and kept and sum(each.size for each in kept) + wanted > limit and kept[0].time < now - _WEEK:
        kept.pop(0)
    room = limit - sum(each.size for each in kept)
    added = _Recording(0 if is_scan else int(now), list(_frames(layers, new, room, read)))
    recordings = [*kept, added] if added.frames else kept
    frames = [made for each in recordings for made in each.frames]
    streams = tuple(layer.index.stream for layer in layers)
    sized = [(blocks, len(stored)) for blocks, stored in frames]
    head = encode_head(streams, sized, tuple((each.time, each.blocks) for each in recordings))
    held = sum(each.size for each in kept)
    return Built([head, *(stored for _, stored in frames)], held + added.size, added.size, held)


def compact(file: ReaderAt, table: PackTable) -> bytes:
    """Return a pack with the same blocks that takes fewer bytes, for transport; without its history.

    Raises:
        InvalidImageError: A frame is damaged.
    """
    compress = zstandard.ZstdCompressor(level=_COMPACT_LEVEL).compress
    frames: list[_Made] = []
    blocks: list[Block] = []
    parts: list[memoryview] = []
    for frame in table.frames:
        views = frame.decode(file.pread(frame.stored, frame.offset))
        if views is None:
            raise InvalidImageError("hot pack: a frame is damaged")
        for block, view in zip(frame.blocks, views, strict=True):
            if sum(map(len, parts)) + len(view) > _COMPACT_FRAME:
                frames.append((tuple(blocks), compress(b"".join(parts))))
                blocks, parts = [], []
            blocks.append(block)
            parts.append(view)
    if blocks:
        frames.append((tuple(blocks), compress(b"".join(parts))))
    head = encode_head(table.streams, [(blocks, len(stored)) for blocks, stored in frames], ())
    return b"".join([head, *(stored for _, stored in frames)])


def _recordings(file: ReaderAt, table: PackTable, now: int) -> list[_Recording]:
    """Return the recordings of a pack, without damaged frames; none of them is of the future."""
    recordings = [_Recording(min(when, now), []) for when, _ in table.recordings] or [_Recording(0, [])]
    borders = list(accumulate(count for _, count in table.recordings))
    passed = 0
    for frame in table.frames:
        at = min(bisect_right(borders, passed), len(recordings) - 1)
        passed += len(frame.blocks)
        stored = _verified(file, frame)
        if stored is not None:
            recordings[at].frames.append((frame.blocks, stored))
    return [each for each in recordings if each.frames]


def _verified(file: ReaderAt, frame: PackFrame) -> bytes | None:
    try:
        stored = file.pread(frame.stored, frame.offset)
    except OSError:
        return None
    return None if frame.decode(stored) is None else stored


def _frames(
    layers: Sequence[Layer], new: Sequence[Range], room: int, read: Callable[[Range], bytes | None]
) -> Iterator[_Made]:
    """Yield frames with the bytes of ranges, of up to `room` decoded bytes."""
    compress = zstandard.ZstdCompressor(level=_LEVEL).compress
    blocks: list[Block] = []
    parts: list[bytes] = []
    for piece in _cut(new, room):
        layer, begin, end = piece
        try:
            data = read(piece) or layers[layer].pread(end - begin, begin)
        except (InvalidImageError, OSError):
            continue
        except (NotFoundError, RegistryError):
            break
        blocks.append(Block(layer, begin, len(data), hashlib.sha256(data).digest()))
        parts.append(data)
        if sum(map(len, parts)) >= _FRAME:
            yield tuple(blocks), compress(b"".join(parts))
            blocks, parts = [], []
    if blocks:
        yield tuple(blocks), compress(b"".join(parts))


def _cut(new: Sequence[Range], room: int) -> Iterator[Range]:
    """Yield ranges in pieces of at most a block, of up to `room` bytes."""
    for layer, start, end in new:
        for begin in range(start, end, BLOCK_MAX):
            stop = min(begin + BLOCK_MAX, end)
            room -= stop - begin
            if room < 0:
                return
            yield layer, begin, stop
