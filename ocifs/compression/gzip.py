"""gzip (RFC 1952), of one member or many: a pass over a blob, and decoding from a checkpoint.

zlib-ng inflates. Who finds the checkpoints is the business of other modules. CRCs are checked on the pass;
random access never meets a whole member, so there the spans' digests, kept by the layer, take their place.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial

from zlib_ng import zlib_ng

from ocifs.compression import CHUNK, Checkpoint, Decoder, Pass, Warn, evenly
from ocifs.compression.deflate import align
from ocifs.compression.zstd_frame import window_packer
from ocifs.errors import InvalidImageError
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.reader import ReaderAt

_MAGIC = b"\x1f\x8b"
_PADDING = re.compile(rb"\0*")
_GZIP_WBITS = 31
_RAW_WBITS = -15
_TRAILER = 8  # CRC32 and ISIZE
_INPUT = 128 << 10
_OUTPUT = 4 << 20  # bounds what one piece of input may inflate to before it is handed on
_STEP = 1 << 10
"""Bytes of input passed to the decoder first where a member begins inside a span."""


class GzipPass:
    """Inflates with zlib-ng in this process, while indexed_gzip finds the checkpoints in another."""

    restartable = True

    def __init__(self, blob: ReaderAt, warn: Warn) -> None:
        self.blob = blob
        self.warn = warn
        self.consumed = 0
        self.found: list[Checkpoint] = []
        self.end = blob.size
        """Where the gzip stream ends."""
        from ocifs.compression.checkpoint_finder import IndexedGzipFinder

        self.finder = IndexedGzipFinder(blob)

    def __enter__(self) -> "GzipPass":
        self.finder.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.finder.stop()

    def chunks(self) -> Iterator[bytes]:
        """Inflate member after member; NUL padding after one is skipped, anything else is left with a warning."""
        data = self._next_input()
        while data:
            inflater = zlib_ng.decompressobj(wbits=_GZIP_WBITS)
            while not inflater.eof:
                if not data and not (data := self._next_input()):
                    raise InvalidImageError("the gzip stream ends in the middle: the blob is cut short")
                try:
                    chunk = inflater.decompress(data, _OUTPUT)
                except zlib_ng.error as error:  # type: ignore[misc]  # its stub calls it a value
                    raise InvalidImageError(f"gzip stream damaged near byte {self.consumed}: {error}") from None
                data = inflater.unconsumed_tail
                if chunk:
                    yield chunk
            data = self._next_member(inflater.unused_data)

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Give what the finder found."""
        pack = window_packer()
        for point in evenly(self.finder.checkpoints(self.end)):
            yield point._replace(window=pack(point.window))

    def _next_input(self) -> bytes:
        data = self.blob.pread(_INPUT, self.consumed)
        self.consumed += len(data)
        return data

    def _next_member(self, data: bytes) -> bytes:
        """Return the input from the next member on; nothing at the end or where no member follows."""
        data = data.lstrip(b"\0")
        while len(data) < len(_MAGIC):
            if not (more := self._next_input()):
                break
            data = (data + more).lstrip(b"\0")
        if data and not data.startswith(_MAGIC):
            self.end = self.consumed - len(data)
            self.warn(f"{self.blob.size - self.end} bytes after the gzip stream are ignored")
            return b""
        return data


def passes(
    blob: ReaderAt, warn: Warn, limits: Limits = DEFAULT_LIMITS, *, low_memory: bool = False
) -> list[Callable[[], Pass]]:
    """Begin with what inflates in another process; the last one, in this process, judges what that finds damaged."""
    from ocifs.compression.blocks import BlockPass
    from ocifs.compression.rapid import RapidgzipPass, rapidgzip_is_installed
    from ocifs.compression.subprocess_pass import SubprocessPass, is_worth_a_process
    from ocifs.compression.zng import can_stop_between_blocks

    if blob.pread(len(_MAGIC), 0) != _MAGIC:
        raise InvalidImageError("no gzip member at byte 0")
    ways: list[Callable[[], Pass]] = []
    if is_worth_a_process(blob):
        # rapidgzip writes to standard error, and ends a process that gets no memory or no thread.
        if rapidgzip_is_installed() and not low_memory:
            ways.append(partial(SubprocessPass, RapidgzipPass, blob))
        elif can_stop_between_blocks():
            ways.append(partial(SubprocessPass, BlockPass, blob))
    return [*ways, partial(BlockPass if can_stop_between_blocks() else GzipPass, blob, warn)]


class Inflation:
    """A span that is being inflated; it may begin inside a byte and cross from one member to the next.

    Without a checkpoint it begins with a member. zlib copies whatever input it leaves at the end of a member. So input
    that follows a member is passed in pieces that double from `_STEP`: the time is linear in it, however many members.
    """

    def __init__(self, data: bytes, checkpoint: Checkpoint | None = None) -> None:
        self._offset = checkpoint.offset if checkpoint else 0
        self._input = align(data, checkpoint.bits) if checkpoint else data
        self._place = 0
        """Bytes of the input that are used."""
        self._step = len(self._input)
        self._inflater = (
            zlib_ng.decompressobj(wbits=_RAW_WBITS, zdict=checkpoint.window)
            if checkpoint
            else zlib_ng.decompressobj(wbits=_GZIP_WBITS)
        )
        # Which only a member that is inflated from its header on takes care of by itself.
        self._trailer = _TRAILER if checkpoint else 0

    def read(self, size: int, /) -> bytes:
        """Return the next `size` bytes. Raises InvalidImageError."""
        data = self._next(size) if size else b""
        if len(data) == size:  # as nearly always
            return data
        pieces = bytearray(data)
        while left := size - len(pieces):
            data = self._next(left)
            pieces += data
            if not data and self._place >= len(self._input):
                raise InvalidImageError(f"span at byte {self._offset} ends {left} bytes early")
        return bytes(pieces)

    def is_at_end(self) -> bool:
        """Whether nothing but NULs and empty members follow what was read. Raises InvalidImageError."""
        while not self._inflater.eof or self._place < len(self._input):
            if self._next(1) or not (self._inflater.eof or self._place < len(self._input)):
                return False
        return self._place == len(self._input)

    def _next(self, most: int) -> bytes:
        """Return up to `most` bytes of the next piece of input, perhaps none."""
        if self._inflater.eof:
            self._inflater = zlib_ng.decompressobj(wbits=_GZIP_WBITS)
            self._step = _STEP
        piece = memoryview(self._input)[self._place : self._place + self._step]
        try:
            data = self._inflater.decompress(piece, most)
        except zlib_ng.error as error:  # type: ignore[misc]  # its stub calls it a value
            raise InvalidImageError(f"span at byte {self._offset}: {error}") from None
        left = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail
        self._place += len(piece) - len(left)
        self._step *= 2
        if self._inflater.eof:
            self._place += self._trailer
            self._trailer = 0
            padding = _PADDING.match(self._input, self._place)
            self._place += len(padding[0]) if padding else 0
        return data


def decode(data: bytes, checkpoint: Checkpoint, size: int) -> Decoder:
    """Begin to inflate a span."""
    return Inflation(data, checkpoint)


def part(data: bytes, skip: int, size: int) -> bytes:
    """Return `size` bytes, from `skip` on, of the member with which `data` begins; never more are held, and no others.

    Nothing has proven `data`. Raises InvalidImageError.
    """
    inflation = Inflation(data)
    for place in range(0, skip, CHUNK):
        inflation.read(min(CHUNK, skip - place))
    return inflation.read(size)
