"""Codecs: each decodes a compressed stream from its beginning, and from checkpoints inside it.

This package imports `spec` and the modules below it; it knows nothing of tar, of layers or of the cache.

A *pass* reads a blob once from front to end, yields its uncompressed bytes and, after that, the checkpoints at which
decoding can restart. `decode` turns the compressed bytes of one span, from a checkpoint to the next, into its
uncompressed bytes. It keeps no state, so spans decode in any order and in parallel. `codecs.py` lists the codecs.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from ocifs.reader import ReaderAt

if TYPE_CHECKING:  # a process that only inflates does not need it
    from ocifs.limits import Limits

SPACING = 320 << 10
"""Uncompressed bytes between checkpoints, as near as the stream allows. Shorter spans make random reads and starts
faster, but indexes larger; sequential readers decode several in one go (docs/performance.md, sweep)."""

MAX_SPAN = 8 << 20
"""Longest span in uncompressed bytes. Longer ones cost too much to decode for a few bytes: ocifs reframes the blob."""

CHUNK = 1 << 20
"""Bytes of a stream handled at once."""

Chunk = bytes | memoryview
"""Bytes of a stream. Copy what must outlive the next chunk: a view keeps its memory from being reused."""

Warn = Callable[[str], None]


class Checkpoint(NamedTuple):
    """A position where decoding can start, with everything it needs."""

    start: int
    """Offset in the uncompressed stream."""
    offset: int
    """Offset in the blob of the first byte that the decoder needs."""
    bits: int = 0
    """How many of the top bits of the byte at `offset` the span begins with; 0 if it begins with a whole byte."""
    window: bytes = b""
    """The uncompressed bytes before `start` that the stream refers back to, at most 32 KiB, or their zstd frame."""


class Pass(Protocol):
    """Decodes a blob once, from front to end; a context manager, used once."""

    consumed: int
    """Compressed bytes read so far, for progress and ratio."""

    found: list[Checkpoint]
    """Checkpoints found so far, without windows, if the pass knows them before the end. A new list replaces an old one;
    no list changes."""

    restartable: bool
    """False if the blob has spans too large to restart at; known before the first chunk."""

    untrimmed: bool = False
    """Whether its windows have yet to be trimmed (`ocifs.compression.trimming`)."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None  # nothing has to be closed

    def chunks(self) -> Iterator[Chunk]:
        """Yield the uncompressed bytes in order. Raises InvalidImageError for a damaged or truncated stream."""
        ...

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Yield the checkpoints in order, at least one, then one at the end; call after the last chunk.

        Windows are zstd frames.
        """
        ...


class Decoder(Protocol):
    """Decodes one span in order, only as far as the caller reads."""

    def read(self, size: int, /) -> bytes:
        """Return exactly `size` bytes, which the span must still have. Raises InvalidImageError."""
        ...


class Codec(Protocol):
    """A compression format; each codec is a module."""

    def passes(
        self, blob: ReaderAt, warn: Warn, limits: "Limits" = ..., *, low_memory: bool = False, quick: bool = False
    ) -> list[Callable[[], Pass]]:
        """Return constructors of passes over a blob, the fastest first; the next one decides what one finds invalid.

        `quick`: the pass may leave windows untrimmed, and the one that takes the least processor time comes first.
        """
        ...

    def decode(self, data: bytes, checkpoint: Checkpoint, size: int) -> Decoder:
        """Begin to decode the span of `size` bytes whose compressed bytes are `data`. Raises InvalidImageError."""
        ...


def evenly(checkpoints: Iterator[Checkpoint]) -> Iterator[Checkpoint]:
    """Drop checkpoints that lie closer together than `SPACING` needs; keep the first and the end."""
    last = next(checkpoints)
    yield last
    candidate = next(checkpoints)
    for following in checkpoints:
        if following.start - last.start > SPACING * 5 // 4:
            last = candidate
            yield last
        candidate = following
    yield candidate
