"""The digests of a blob and of its spans, from one reading of it.

Both cover the same bytes, so a span that has its digest is part of a blob that had its own. The reading follows the
pass that finds the checkpoints, as far as it has come, and finishes when the pass has ended.
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
"""Maximum stored bytes of a span, which are in memory together: more of them decode to almost nothing."""

_READ = 4 << 20

_Range = tuple[int, int]
"""(start, end) of a span in the blob; neighbours may share a byte."""


class SpanDigester:
    """One reading of a blob that should have `digest`, from front to end; not thread-safe."""

    def __init__(self, digest: Digest, blob: ReaderAt) -> None:
        self._digest = digest
        self._blob = blob
        self._found: Sequence[Checkpoint] = ()
        self._begin()

    def follow(self, found: Sequence[Checkpoint]) -> None:
        """Read as far as checkpoints are `found`; the last ones may later be dropped because they are too close.

        Raises:
            InvalidImageError: The blob became shorter.
        """
        if found is not self._found and len(found) > 1:
            self._found = found
            spaced = list(evenly(iter(found)))[:-1]
            self._read(self._missing([each for each in _ranges(spaced) if each[1] - each[0] <= MAX_STORED]))

    def finish(self, checkpoints: Iterable[Checkpoint]) -> list[bytes]:
        """Read the rest, and return the sha256 of each span between `checkpoints`.

        Raises:
            InvalidImageError: The blob has another digest, or became shorter.
        """
        ranges = _ranges(checkpoints)
        self._read([*self._missing(ranges), (self._blob.size, self._blob.size)])
        if self._hasher.hexdigest() != self._digest.hex:
            raise InvalidImageError("its bytes do not match its digest: fetch the image again")
        return [self._spans[each] for each in ranges]

    def _missing(self, ranges: list[_Range]) -> list[_Range]:
        """Return the spans without a digest; all, and start again, if one of them lies behind the reading."""
        missing = [each for each in ranges if each not in self._spans]
        if missing and missing[0][0] < self._hashed - 1:  # another pass, or its end, has other checkpoints
            self._begin()
            return ranges
        return missing

    def _begin(self) -> None:
        self._hasher = self._digest.hasher()
        self._hashed = 0
        """Bytes of the blob that are hashed."""
        self._spans: dict[_Range, bytes] = {}

    def _read(self, spans: list[_Range]) -> None:
        """Read up to the end of the last of the ordered `spans`; hash them, and the blob in another thread."""
        with Pool(1) as thread:
            hashing: Future[None] | None = None
            for begin, end in spans:
                gap = [(position, min(position + _READ, begin)) for position in range(self._hashed, begin, _READ)]
                for position, stop in [*gap, (begin, end)]:
                    data = self._pread(stop - position, position)
                    if hashing:
                        hashing.result()
                    hashing = thread.submit(self._hasher.update, memoryview(data)[max(self._hashed - position, 0) :])
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
