"""No compression: every byte is a place to restart, so spans are simply equal pieces."""

import io
from collections.abc import Callable, Iterator
from functools import partial

from ocifs.compression import CHUNK, SPACING, Checkpoint, Decoder, Pass, Warn
from ocifs.errors import InvalidImageError
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.reader import ReaderAt


class PlainPass:
    """Reads a blob as it is."""

    restartable = True

    def __init__(self, blob: ReaderAt) -> None:
        self.blob = blob
        self.consumed = 0
        self.found: list[Checkpoint] = []

    def __enter__(self) -> "PlainPass":
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def chunks(self) -> Iterator[bytes]:
        """Give the blob's own bytes."""
        while data := self.blob.pread(CHUNK, self.consumed):
            self.consumed += len(data)
            yield data

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Give a checkpoint every `SPACING` bytes."""
        for offset in range(0, max(self.consumed, 1), SPACING):
            yield Checkpoint(offset, offset)
        yield Checkpoint(self.consumed, self.consumed)


def passes(
    blob: ReaderAt, warn: Warn, limits: Limits = DEFAULT_LIMITS, *, low_memory: bool = False
) -> list[Callable[[], Pass]]:
    """There is one way."""
    return [partial(PlainPass, blob)]


def decode(data: bytes, checkpoint: Checkpoint, size: int) -> Decoder:
    """Give `data` itself."""
    if len(data) != size:
        raise InvalidImageError(f"the span holds {len(data)} bytes instead of {size}")
    return io.BytesIO(data)
