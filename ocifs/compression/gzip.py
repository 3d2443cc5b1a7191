"""gzip (RFC 1952), of one member or many: passes over a blob, and decoding from a checkpoint.

zlib-ng inflates; other modules find the checkpoints. A pass checks the members' CRCs.
"""

from collections.abc import Callable, Iterator
from functools import partial

from zlib_ng import zlib_ng

from ocifs.compression import CHUNK, Checkpoint, Decoder, Pass, Warn, evenly
from ocifs.compression.inflation import Inflation
from ocifs.compression.zstd_frame import window_packer
from ocifs.errors import InvalidImageError
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.reader import ReaderAt

_MAGIC = b"\x1f\x8b"
_GZIP_WBITS = 31
_INPUT = 128 << 10
_OUTPUT = 4 << 20  # largest chunk


class GzipPass:
    """Inflates with zlib-ng in this process, while indexed_gzip finds the checkpoints in another."""

    restartable = True
    untrimmed = False

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
        """Inflate all members; skip NUL padding after a member, stop with a warning at other bytes."""
        data = self._next_input()
        while data:
            inflater = zlib_ng.decompressobj(wbits=_GZIP_WBITS)
            while not inflater.eof:
                if not data and not (data := self._next_input()):
                    raise InvalidImageError("the gzip stream is truncated: fetch or build the image again")
                try:
                    chunk = inflater.decompress(data, _OUTPUT)
                except zlib_ng.error as error:  # type: ignore[misc]  # its stub calls it a value
                    raise InvalidImageError(f"gzip stream damaged near byte {self.consumed}: {error}") from None
                data = inflater.unconsumed_tail
                if chunk:
                    yield chunk
            data = self._next_member(inflater.unused_data)

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Yield the checkpoints of the finder."""
        pack = window_packer()
        for point in evenly(self.finder.checkpoints(self.end)):
            yield point._replace(window=pack(point.window))

    def _next_input(self) -> bytes:
        data = self.blob.pread(_INPUT, self.consumed)
        self.consumed += len(data)
        return data

    def _next_member(self, data: bytes) -> bytes:
        """Return the input from the next member; b"" if no member follows."""
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
    blob: ReaderAt, warn: Warn, limits: Limits = DEFAULT_LIMITS, *, low_memory: bool = False, quick: bool = False
) -> list[Callable[[], Pass]]:
    """Return first a pass in another process, if any; the last one, in this process, decides if a blob is damaged."""
    from ocifs.compression.blocks import BlockPass, QuickPass
    from ocifs.compression.rapid import RapidgzipPass, rapidgzip_is_installed
    from ocifs.compression.subprocess_pass import SubprocessPass, is_large, is_worth_a_process
    from ocifs.compression.zng import can_stop_between_blocks

    if blob.pread(len(_MAGIC), 0) != _MAGIC:
        raise InvalidImageError("no gzip member at byte 0")
    choices: list[Callable[[], Pass]] = []
    if is_worth_a_process(blob):
        # rapidgzip writes to standard error, and ends its process if it gets no memory or no thread.
        if quick and can_stop_between_blocks():
            choices.append(partial(SubprocessPass, QuickPass, blob, untrimmed=True))
        elif rapidgzip_is_installed() and not low_memory:
            choices.append(partial(SubprocessPass, RapidgzipPass, blob))
        elif can_stop_between_blocks():
            choices.append(partial(SubprocessPass, BlockPass, blob))
    whole = QuickPass if quick and is_large(blob) else BlockPass
    return [*choices, partial(whole if can_stop_between_blocks() else GzipPass, blob, warn)]


def decode(data: bytes, checkpoint: Checkpoint, size: int) -> Decoder:
    """Begin to inflate a span."""
    return Inflation(data, checkpoint)


def part(data: bytes, skip: int, size: int) -> bytes:
    """Return `size` bytes, from offset `skip`, of the first member of `data`, which is unverified.

    Memory stays bounded by `size` and `CHUNK`. Raises InvalidImageError.
    """
    inflation = Inflation(data)
    for position in range(0, skip, CHUNK):
        inflation.read(min(CHUNK, skip - position))
    return inflation.read(size)
