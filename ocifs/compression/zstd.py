"""zstd (RFC 8878): decoding restarts at the beginning of a frame.

A blob of many frames (zstd:chunked, pzstd, the seekable format) is already a sequence of spans. Decoding cannot
restart inside a long frame: `restartable` is then False, known from the block headers before any decoding.
"""

import io
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, NamedTuple, cast

import zstandard

from ocifs.compression import CHUNK, MAX_SPAN, SPACING, Checkpoint, Decoder, Pass, Warn, evenly
from ocifs.errors import InvalidImageError, UnsupportedError
from ocifs.limits import DEFAULT_LIMITS, Limits, in_units
from ocifs.reader import ReaderAt

_SPAN_WINDOW = 1 << 27
"""Largest window of a span's frame, in bytes: reading a few bytes of the frame takes that much memory."""

_PART_WINDOW = 1 << 25
"""The same for an unverified frame."""

_MAGIC = 0xFD2FB528
_SKIPPABLE = 0x184D2A50
_BLOCK_MAX = 128 << 10
_INPUT = 128 << 10


class Frame(NamedTuple):
    """A frame, or several consecutive frames."""

    offset: int
    end: int
    bound: int
    """Upper bound of the uncompressed size."""
    window: int = 0
    """Bytes that its decoder keeps in memory."""


def scan_frames(blob: ReaderAt, limits: Limits = DEFAULT_LIMITS) -> Iterator[Frame]:
    """Yield the frames of a blob from their headers alone. Raises InvalidImageError, UnsupportedError, LimitError."""
    offset = 0
    while offset < blob.size:
        head = blob.pread(18, offset)
        magic = int.from_bytes(head[:4], "little")
        if magic & ~0xF == _SKIPPABLE:
            end = offset + 8 + int.from_bytes(head[4:8], "little")
            bound = window = 0
        elif magic == _MAGIC:
            end, bound, window = _scan_frame(blob, offset, head, limits)
        else:
            raise InvalidImageError(f"no zstd frame at byte {offset}")
        if end > blob.size:
            raise InvalidImageError("the zstd stream is truncated: fetch or build the image again")
        yield Frame(offset, end, bound, window)
        offset = end


def _joined(frames: Iterator[Frame]) -> Iterator[Frame]:
    """Join small neighbouring frames: a blob may consist of any number of empty ones."""
    run = next(frames, None)
    if run is None:
        return
    for frame in frames:
        if run.bound + frame.bound <= SPACING and frame.end - run.offset <= SPACING:
            run = Frame(run.offset, frame.end, run.bound + frame.bound, max(run.window, frame.window))
        else:
            yield run
            run = frame
    yield run


def _scan_frame(blob: ReaderAt, offset: int, head: bytes, limits: Limits) -> tuple[int, int, int]:
    """Return the end of the frame at `offset`, an upper bound of its uncompressed size, and its window."""
    try:
        parameters = zstandard.get_frame_parameters(head)
        header_size = zstandard.frame_header_size(head)
    except zstandard.ZstdError as error:
        raise InvalidImageError(f"zstd frame at byte {offset}: {error}") from None
    if parameters.dict_id:
        raise UnsupportedError(
            f"zstd frame at byte {offset} needs dictionary {parameters.dict_id}: recompress the layer"
        )
    if parameters.window_size > limits.zstd_window:
        what = f"zstd frame at byte {offset} requires a window of {in_units(parameters.window_size)}"
        raise limits.passed("zstd_window", what)
    position = offset + header_size
    bound = 0
    last = False
    while not last:
        block = blob.pread(3, position)
        if len(block) < 3:
            raise InvalidImageError("the zstd stream is truncated: fetch or build the image again")
        header = int.from_bytes(block, "little")
        last = bool(header & 1)
        kind, size = header >> 1 & 3, header >> 3
        position += 3 + (1 if kind == 1 else size)  # an RLE block stores one byte
        bound += _BLOCK_MAX if kind == 2 else size  # only a compressed block does not state its size
    if parameters.content_size != zstandard.CONTENTSIZE_UNKNOWN:
        bound = parameters.content_size
    return position + 4 * parameters.has_checksum, bound, parameters.window_size


class ZstdPass(Pass):
    """Decodes frame after frame."""

    def __init__(self, blob: ReaderAt, limits: Limits = DEFAULT_LIMITS) -> None:
        self.blob = blob
        self.limits = limits
        self.consumed = 0
        self.found: list[Checkpoint] = []
        self.frames = list(_joined(scan_frames(blob, limits)))
        self.restartable = all(frame.bound <= MAX_SPAN and frame.window <= _SPAN_WINDOW for frame in self.frames)
        self.starts: list[int] = []

    def chunks(self) -> Iterator[bytes]:
        """Yield the decoded bytes in pieces of bounded size, whatever size a frame claims."""
        produced = 0
        window = min(max(self.limits.zstd_window, 1 << 10), 1 << 31)  # the range that zstd accepts
        decompressor = zstandard.ZstdDecompressor(max_window_size=window)
        for frame in self.frames:
            self.starts.append(produced)
            try:
                source = cast("IO[bytes]", _Forward(self, frame))
                with decompressor.stream_reader(source, _INPUT, read_across_frames=True, closefd=False) as reader:
                    while chunk := reader.read(CHUNK):
                        produced += len(chunk)
                        yield chunk
            except zstandard.ZstdError as error:
                raise InvalidImageError(f"zstd frame at byte {frame.offset} is damaged: {error}") from None
        self.starts.append(produced)
        self.consumed = self.blob.size

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Yield the beginnings of frames, about `SPACING` apart."""
        beginnings = [Checkpoint(start, f.offset) for start, f in zip(self.starts, self.frames, strict=False)]
        yield from evenly(iter([*(beginnings or [Checkpoint(0, 0)]), Checkpoint(self.starts[-1], self.blob.size)]))


class _Forward(io.RawIOBase):
    """The bytes of one frame, read in order."""

    def __init__(self, reading: ZstdPass, frame: Frame) -> None:
        super().__init__()
        self.reading = reading
        self.end = frame.end
        reading.consumed = frame.offset

    def read(self, size: int = -1) -> bytes:
        data = self.reading.blob.pread(min(size, self.end - self.reading.consumed), self.reading.consumed)
        self.reading.consumed += len(data)
        return data


def passes(
    blob: ReaderAt, warn: Warn, limits: Limits = DEFAULT_LIMITS, *, low_memory: bool = False, quick: bool = False
) -> list[Callable[[], Pass]]:
    """Return the only pass."""
    return [partial(ZstdPass, blob, limits)]


def decode(data: bytes, checkpoint: Checkpoint, size: int) -> Decoder:
    """Decode the frames of a span, `size` bytes in all: at once, in a fraction of the time inflating takes."""
    try:
        reader = zstandard.ZstdDecompressor(max_window_size=_SPAN_WINDOW).stream_reader(data, read_across_frames=True)
        # One byte more than expected detects a longer span, without allocating the size that a frame claims.
        decoded = reader.read(size + 1) if size else b""
    except zstandard.ZstdError as error:
        raise InvalidImageError(f"span at byte {checkpoint.offset}: {error}") from None
    if len(decoded) != size:
        raise InvalidImageError(f"span at byte {checkpoint.offset} does not have {size} bytes")
    return io.BytesIO(decoded)


def part(data: bytes, skip: int, size: int) -> bytes:
    """Return `size` bytes, from offset `skip`, of the first frame of `data`, which is unverified.

    Memory stays bounded by `size` and `CHUNK`. Raises InvalidImageError.
    """
    try:
        reader = zstandard.ZstdDecompressor(max_window_size=_PART_WINDOW).stream_reader(data)
        for position in range(0, skip, CHUNK):
            reader.read(min(CHUNK, skip - position))
        decoded = reader.read(size) if size else b""
    except zstandard.ZstdError as error:
        raise InvalidImageError(f"zstd frame: {error}") from None
    if len(decoded) != size:
        raise InvalidImageError(f"a zstd frame has {len(decoded)} bytes, not {size}")
    return decoded
