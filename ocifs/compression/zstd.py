"""zstd (RFC 8878): decoding restarts where a frame begins.

A blob of many frames (zstd:chunked, pzstd, the seekable format) is a run of spans as it lies. A frame that is too
long is no place to restart in; `restartable` says so after a look at the block headers, before anything is decoded.
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
"""Bytes. A frame with a larger window is no span: whoever reads a few bytes of it would need that much memory."""

_PART_WINDOW = 1 << 25
"""The same for a frame that nothing has proven."""

_MAGIC = 0xFD2FB528
_SKIPPABLE = 0x184D2A50
_BLOCK_MAX = 128 << 10
_INPUT = 128 << 10


class Frame(NamedTuple):
    """A frame, or several that follow each other."""

    offset: int
    end: int
    bound: int
    """No less than the uncompressed size."""
    window: int = 0
    """Bytes that its decoder holds."""


def scan_frames(blob: ReaderAt, limits: Limits = DEFAULT_LIMITS) -> Iterator[Frame]:
    """Give the frames of a blob by their headers alone. Raises InvalidImageError, UnsupportedError, LimitError."""
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
            raise InvalidImageError("the zstd stream ends in the middle: the blob is cut short")
        yield Frame(offset, end, bound, window)
        offset = end


def _joined(frames: Iterator[Frame]) -> Iterator[Frame]:
    """Join small neighbours: a blob may be made of any number of frames that hold nothing."""
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
    """Return where the frame at `offset` ends, a bound of its uncompressed size, and its window."""
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
        what = f"zstd frame at byte {offset} asks for a window of {in_units(parameters.window_size)}"
        raise limits.passed("zstd_window", what)
    place = offset + header_size
    bound = 0
    last = False
    while not last:
        block = blob.pread(3, place)
        if len(block) < 3:
            raise InvalidImageError("the zstd stream ends in the middle: the blob is cut short")
        header = int.from_bytes(block, "little")
        last = bool(header & 1)
        kind, size = header >> 1 & 3, header >> 3
        place += 3 + (1 if kind == 1 else size)  # an RLE block stores one byte
        bound += _BLOCK_MAX if kind == 2 else size  # only a compressed block does not tell what it holds
    if parameters.content_size != zstandard.CONTENTSIZE_UNKNOWN:
        bound = parameters.content_size
    return place + 4 * parameters.has_checksum, bound, parameters.window_size


class ZstdPass:
    """Decodes frame after frame."""

    def __init__(self, blob: ReaderAt, limits: Limits = DEFAULT_LIMITS) -> None:
        self.blob = blob
        self.limits = limits
        self.consumed = 0
        self.found: list[Checkpoint] = []
        self.frames = list(_joined(scan_frames(blob, limits)))
        self.restartable = all(frame.bound <= MAX_SPAN and frame.window <= _SPAN_WINDOW for frame in self.frames)
        self.starts: list[int] = []

    def __enter__(self) -> "ZstdPass":
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def chunks(self) -> Iterator[bytes]:
        """Decode in pieces of bounded size, however much a frame claims to hold."""
        produced = 0
        window = min(max(self.limits.zstd_window, 1 << 10), 1 << 31)  # the least and most that zstd takes
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
        """Give the frames' beginnings, so far apart as the spacing asks."""
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
    blob: ReaderAt, warn: Warn, limits: Limits = DEFAULT_LIMITS, *, low_memory: bool = False
) -> list[Callable[[], Pass]]:
    """There is one way."""
    return [partial(ZstdPass, blob, limits)]


def decode(data: bytes, checkpoint: Checkpoint, size: int) -> Decoder:
    """Decode the frames of a span, `size` bytes in all: at once, since that takes a fraction of what inflating does."""
    try:
        reader = zstandard.ZstdDecompressor(max_window_size=_SPAN_WINDOW).stream_reader(data, read_across_frames=True)
        # One byte more than is due, to notice too many; never as many as a frame may claim.
        decoded = reader.read(size + 1) if size else b""
    except zstandard.ZstdError as error:
        raise InvalidImageError(f"span at byte {checkpoint.offset}: {error}") from None
    if len(decoded) != size:
        raise InvalidImageError(f"span at byte {checkpoint.offset} holds other than {size} bytes")
    return io.BytesIO(decoded)


def part(data: bytes, skip: int, size: int) -> bytes:
    """Return `size` bytes, from `skip` on, of the frame with which `data` begins; never more are held, and no others.

    Nothing has proven `data`. Raises InvalidImageError.
    """
    try:
        reader = zstandard.ZstdDecompressor(max_window_size=_PART_WINDOW).stream_reader(data)
        for place in range(0, skip, CHUNK):
            reader.read(min(CHUNK, skip - place))
        decoded = reader.read(size) if size else b""
    except zstandard.ZstdError as error:
        raise InvalidImageError(f"zstd frame: {error}") from None
    if len(decoded) != size:
        raise InvalidImageError(f"a zstd frame with {len(decoded)} bytes, not {size}")
    return decoded
