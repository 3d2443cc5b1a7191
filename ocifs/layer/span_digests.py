"""The digests of a blob and of its spans, from one reading of it.

Both are of the same bytes, so a span that is proven later is proven to be part of a blob that was. The reading follows
the pass that finds the spans, as far as their borders are known, and is finished when they all are.
"""

import hashlib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from ocifs.compression import MAX_SPAN, Checkpoint, evenly
from ocifs.errors import InvalidImageError
from ocifs.pool import Pool
from ocifs.reader import ReaderAt
from ocifs.spec.digest import Digest

if TYPE_CHECKING:
    from concurrent.futures import Future

MAX_STORED = 2 * MAX_SPAN
"""Bytes of a span as stored: one with more holds next to nothing, and costs too much memory."""

_READ = 4 << 20

_Range = tuple[int, int]
"""Where a span begins in the blob and where it ends; neighbours may share a byte."""


class SpanDigester:
    """One reading of a blob that should have `digest`, from front to end; for one thread at a time."""

    def __init__(self, digest: Digest, blob: ReaderAt) -> None:
        self._digest = digest
        self._blob = blob
        self._found: Sequence[Checkpoint] = ()
        self._begin()

    def follow(self, found: Sequence[Checkpoint]) -> None:
        """Read on as far as checkpoints are `found`, of which the last ones may turn out to be too close.

        Raises:
            InvalidImageError: The blob is shorter than it was.
        """
        if found is not self._found and len(found) > 1:
            self._found = found
            kept = list(evenly(iter(found)))[:-1]
            self._read([each for each in _ranges(kept) if each not in self._spans and each[1] - each[0] <= MAX_STORED])

    def finish(self, checkpoints: Iterable[Checkpoint]) -> list[bytes]:
        """Read what is left, and return the sha256 of each span, whose borders the checkpoints are.

        Raises:
            InvalidImageError: The blob has another digest, or is shorter than it was.
        """
        wanted = _ranges(checkpoints)
        missing = [each for each in wanted if each not in self._spans]
        if missing and missing[0][0] < self._hashed - 1:  # what was followed is not what came out
            self._begin()
            missing = wanted
        self._read([*missing, (self._blob.size, self._blob.size)])
        if self._hasher.hexdigest() != self._digest.hex:
            raise InvalidImageError("its bytes do not match its digest: fetch the image again")
        return [self._spans[each] for each in wanted]

    def _begin(self) -> None:
        self._hasher = self._digest.hasher()
        self._hashed = 0
        """Bytes of the blob that are hashed."""
        self._spans: dict[_Range, bytes] = {}

    def _read(self, spans: list[_Range]) -> None:
        """Read up to the end of the last of `spans`, which are in order; take its part beside the blob's digest."""
        with Pool(1) as beside:
            hashing: Future[None] | None = None
            for begin, end in spans:
                gap = [(place, min(place + _READ, begin)) for place in range(self._hashed, begin, _READ)]
                for place, stop in [*gap, (begin, end)]:
                    data = self._pread(stop - place, place)
                    if hashing:
                        hashing.result()
                    hashing = beside.submit(self._hasher.update, memoryview(data)[max(self._hashed - place, 0) :])
                    self._hashed = stop
                self._spans[begin, end] = hashlib.sha256(data).digest()
            if hashing:
                hashing.result()

    def _pread(self, size: int, offset: int) -> bytes:
        data = self._blob.pread(size, offset) if size else b""
        if len(data) != size:
            raise InvalidImageError("the blob became shorter while it was read")
        return data


def _ranges(checkpoints: Iterable[Checkpoint]) -> list[_Range]:
    return [(begin.offset, end.offset + (end.bits > 0)) for begin, end in pairwise(checkpoints)]
