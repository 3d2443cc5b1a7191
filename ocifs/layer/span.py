"""One span of a layer: decoded as far as somebody has asked, and to its end when somebody asks again.

Who jumps about in a layer wants a little of each span, for which half of it has to be decoded on average; who comes
again reads on, and gets the rest. Safe to use from any thread.
"""

import threading

from ocifs.compression import Decoder
from ocifs.errors import InvalidImageError


class Span:
    """`size` bytes, which come out of `decoder`."""

    def __init__(self, size: int, decoder: Decoder) -> None:
        self.size = size
        self.decoded = 0
        """How many of its bytes are there."""
        self._decoder: Decoder | None = decoder
        self._pieces: list[bytes] = []
        """Two at most."""
        self._lock = threading.Lock()

    def is_done(self) -> bool:
        """Whether all of it is decoded, or somebody is decoding it."""
        return self.decoded == self.size or self._lock.locked()

    def decode(self, end: int) -> None:
        """Decode up to the byte `end` at least. Raises InvalidImageError."""
        if self.decoded >= end:
            return
        with self._lock:
            if self.decoded >= end:
                return
            if self._decoder is None:
                raise InvalidImageError("the span is damaged")  # as somebody else was told
            if self.decoded:
                end = self.size
            decoder, self._decoder = self._decoder, None
            self._pieces.append(decoder.read(end - self.decoded))
            self.decoded = end
            if end < self.size:
                self._decoder = decoder

    def views(self, begin: int, end: int) -> list[memoryview]:
        """Return the bytes from `begin` to `end`, which are decoded, as they lie in the pieces."""
        views = []
        for piece in self._pieces:
            if begin < len(piece) and end > 0:
                views.append(memoryview(piece)[max(begin, 0) : end])
            begin -= len(piece)
            end -= len(piece)
        return views

    def whole(self) -> bytes:
        """Return all of it. Raises InvalidImageError."""
        self.decode(self.size)
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
