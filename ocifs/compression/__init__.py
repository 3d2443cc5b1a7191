"""Compressed streams: decoding one from its beginning, and from checkpoints inside it.

Two things are asked of each compression. A *pass* reads a blob once from front to end, gives its uncompressed
bytes and, after that, the checkpoints at which decoding can start again. `decode` turns the compressed bytes of
one span, from a checkpoint to the next, into its uncompressed bytes, and needs nothing else: it keeps no state,
so spans decode in any order and in parallel. Neither knows of tar, of digests or of where the bytes are kept.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from ocifs.reader import ReaderAt

if TYPE_CHECKING:  # which a process that only inflates does not need
    from ocifs.limits import Limits

SPACING = 1 << 20
"""Uncompressed bytes between checkpoints, as near as the stream allows. Spans of 1 MiB read a whole tree fastest."""

MAX_SPAN = 8 << 20
"""A longer span would cost too much to decode for a few bytes: such a blob is stored anew in shorter frames."""

CHUNK = 1 << 20
"""Bytes of a stream handled at once."""

Chunk = bytes | memoryview
"""Bytes of a stream. What is to be kept of it has to be copied: a view keeps its memory from being used again."""

Warn = Callable[[str], None]


class Checkpoint(NamedTuple):
    """A place where decoding can start: everything needed to do so."""

    start: int
    """Offset in the uncompressed stream."""
    offset: int
    """Offset in the blob of the first byte that is needed."""
    bits: int = 0
    """When the place is inside a byte: how many of the top bits of the byte at `offset` belong to it."""
    window: bytes = b""
    """The uncompressed bytes before `start` that the stream refers back to, at most 32 KiB; or these, packed."""


class Pass(Protocol):
    """One way through a blob, from front to end; a context manager, used once."""

    consumed: int
    """Compressed bytes read so far, for progress and ratio."""

    found: list[Checkpoint]
    """Checkpoints found so far, without their windows, where those are known before the end; replaced, not changed."""

    restartable: bool
    """False when the format has no place to restart at, which shows before the first chunk."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def chunks(self) -> Iterator[Chunk]:
        """Give the uncompressed bytes in order. Raises InvalidImageError where the stream is damaged or cut."""
        ...

    def checkpoints(self) -> Iterator[Checkpoint]:
        """After the last chunk: the checkpoints in order, at least one, then one that marks the end; windows packed."""
        ...


class Decoder(Protocol):
    """A span that is being decoded: it is read in order, as far as it is wanted."""

    def read(self, size: int, /) -> bytes:
        """Return the next `size` bytes, no fewer; there must be as many. Raises InvalidImageError."""
        ...


class Codec(Protocol):
    """A compression, as a module: `plain`, `gzip` and `zstd` are of this shape."""

    @staticmethod
    def passes(
        blob: ReaderAt, warn: Warn, limits: "Limits" = ..., *, low_memory: bool = False
    ) -> list[Callable[[], Pass]]:
        """Return the ways through a blob, the fastest first; what one finds invalid the next one judges."""
        ...

    @staticmethod
    def decode(data: bytes, checkpoint: Checkpoint, size: int) -> Decoder:
        """Begin to decode the span of `size` bytes whose compressed bytes are `data`. Raises InvalidImageError."""
        ...


def evenly(checkpoints: Iterator[Checkpoint]) -> Iterator[Checkpoint]:
    """Leave out checkpoints that lie closer than `SPACING` needs, keeping the first and the end."""
    kept = next(checkpoints)
    yield kept
    candidate = next(checkpoints)
    for following in checkpoints:
        if following.start - kept.start > SPACING * 5 // 4:
            kept = candidate
            yield kept
        candidate = following
    yield candidate
