"""No compression: decoding can restart at any byte, so spans are equal pieces."""

import io
from collections.abc import Callable, Iterator
from functools import partial

from ocifs.compression import CHUNK, SPACING, Checkpoint, Decoder, Pass, Warn
from ocifs.errors import InvalidImageError
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.reader import ReaderAt


class PlainPass(Pass):
    """Reads a blob unchanged."""

    restartable = True

    def __init__(self, blob: ReaderAt) -> None:
        self.blob = blob
        self.consumed = 0
        self.found: list[Checkpoint] = []

    def chunks(self) -> Iterator[bytes]:
        """Yield the blob's bytes."""
        while data := self.blob.pread(CHUNK, self.consumed):
            self.consumed += len(data)
            yield data

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Yield a checkpoint every `SPACING` bytes."""
        for offset in range(0, max(self.consumed, 1), SPACING):
            yield Checkpoint(offset, offset)
        yield Checkpoint(self.consumed, self.consumed)


def passes(
    blob: ReaderAt, warn: Warn, limits: Limits = DEFAULT_LIMITS, *, low_memory: bool = False, quick: bool = False
) -> list[Callable[[], Pass]]:
    """Return the only pass."""
    return [partial(PlainPass, blob)]


def decode(data: bytes, checkpoint: Checkpoint, size: int) -> Decoder:
    """Return a decoder of `data` itself. Raises InvalidImageError."""
    if len(data) != size:
        raise InvalidImageError(f"the span holds {len(data)} bytes instead of {size}")
    return io.BytesIO(data)
