"""One span of a layer: decoded as far as somebody has asked, and on from there when more is wanted.

Who jumps about in a layer wants a little of each span, for which half of it has to be decoded on average; who comes
again reads on, and gets the rest. Safe to use from any thread.
"""

import threading
from bisect import bisect_right
from collections.abc import Iterator

from ocifs.errors import InvalidImageError


class Span:
    """`size` bytes, which come out of `pieces`, the decoder at work."""

    def __init__(self, size: int, pieces: Iterator[bytes]) -> None:
        self.size = size
        self.decoded = 0
        """How many of its bytes are there."""
        self._upcoming = pieces
        self._pieces: list[bytes] = []
        self._starts: list[int] = []
        self._lock = threading.Lock()

    def is_done(self) -> bool:
        """Whether all of it is decoded, or somebody is decoding it."""
        return self.decoded == self.size or self._lock.locked()

    def decode(self, end: int) -> None:
        """Decode up to the byte `end` at least; all of it if some was decoded before. Raises InvalidImageError."""
        if self.decoded >= end:
            return
        with self._lock:
            if self.decoded >= end:
                return
            if self.decoded:
                end = self.size
            while self.decoded < end:
                piece = next(self._upcoming, None)
                if piece is None:  # the decoder has raised, for somebody else
                    raise InvalidImageError("the span is damaged")
                self._pieces.append(piece)
                self._starts.append(self.decoded)
                self.decoded += len(piece)

    def views(self, begin: int, end: int) -> list[memoryview]:
        """Return the bytes from `begin` to `end`, which are decoded, as they lie in the pieces."""
        views = []
        number = bisect_right(self._starts, begin) - 1
        while begin < end:
            start = self._starts[number]
            views.append(memoryview(self._pieces[number])[begin - start : end - start])
            begin += len(views[-1])
            number += 1
        return views

    def whole(self) -> bytes:
        """Return all of it. Raises InvalidImageError."""
        self.decode(self.size)
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
