"""gzip (RFC 1952), of one member or many: a pass over a blob, and decoding from a checkpoint.

zlib-ng inflates. Who finds the checkpoints is the business of other modules. CRCs are checked on the pass;
random access never meets a whole member, so there the spans' digests, kept by the layer, take their place.
"""

from collections.abc import Callable, Iterator
from functools import partial

from zlib_ng import zlib_ng

from ocifs.compression import CHUNK, Checkpoint, Decoder, Pass, Warn, evenly
from ocifs.compression.deflate import align
from ocifs.compression.packed import window_packer
from ocifs.errors import InvalidImageError
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.reader import ReaderAt

_MAGIC = b"\x1f\x8b"
_GZIP_WBITS = 31
_RAW_WBITS = -15
_TRAILER = 8  # CRC32 and ISIZE
_INPUT = 128 << 10
_OUTPUT = 4 << 20  # bounds what one piece of input may inflate to before it is handed on


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
    """Begin by what inflates once, or on all cores; what that cannot read, or finds damaged, `GzipPass` judges."""
    from ocifs.compression.apart import Filling, PassApart, is_worth_a_process
    from ocifs.compression.blocks import BlockPass
    from ocifs.compression.rapid import RapidgzipPass, rapidgzip_is_installed
    from ocifs.compression.zng import can_stop_between_blocks

    if blob.pread(len(_MAGIC), 0) != _MAGIC:
        raise InvalidImageError("no gzip member at byte 0")
    careful = partial(GzipPass, blob, warn)
    fast: Callable[[ReaderAt], Filling]
    # In this process it would write to the terminal (standard error), and so it runs in another one only.
    if rapidgzip_is_installed() and not low_memory and is_worth_a_process(blob):
        fast = RapidgzipPass
    elif can_stop_between_blocks():
        fast = BlockPass
    else:
        return [careful]
    return [partial(PassApart, fast, blob) if is_worth_a_process(blob) else partial(fast, blob), careful]


class Inflation:
    """A span that is being inflated; it may begin inside a byte and cross from one member to the next.

    Without a checkpoint it begins with a member.
    """

    def __init__(self, data: bytes, checkpoint: Checkpoint | None = None) -> None:
        self._offset = checkpoint.offset if checkpoint else 0
        self._input = align(data, checkpoint.bits) if checkpoint else data
        self._inflater = (
            zlib_ng.decompressobj(wbits=_RAW_WBITS, zdict=checkpoint.window)
            if checkpoint
            else zlib_ng.decompressobj(wbits=_GZIP_WBITS)
        )
        # Which only a member that is inflated from its header on takes care of by itself.
        self._trailer = _TRAILER if checkpoint else 0

    def read(self, size: int, /) -> bytes:
        """Return the next `size` bytes. Raises InvalidImageError."""
        pieces: list[bytes] = []
        while size:
            if self._inflater.eof:
                self._begin_member()
            if not self._input:
                raise InvalidImageError(f"span at byte {self._offset} ends {size} bytes early")
            try:
                pieces.append(self._inflater.decompress(self._input, size))
            except zlib_ng.error as error:  # type: ignore[misc]  # its stub calls it a value
                raise InvalidImageError(f"span at byte {self._offset}: {error}") from None
            self._input = self._inflater.unconsumed_tail
            size -= len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _begin_member(self) -> None:
        self._input = self._inflater.unused_data[self._trailer :].lstrip(b"\0")
        self._inflater = zlib_ng.decompressobj(wbits=_GZIP_WBITS)
        self._trailer = 0


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
