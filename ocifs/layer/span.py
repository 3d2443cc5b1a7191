"""One span of a layer: the first read decodes as far as it needs, the second one the rest.

A random read decodes half a span on average. A reader that returns is sequential, and gets the rest. Safe to use from
any thread.
"""

import threading

from ocifs.compression import Decoder
from ocifs.errors import InvalidImageError


class Span:
    """`size` bytes, which come from `decoder`."""

    def __init__(self, size: int, decoder: Decoder) -> None:
        self.size = size
        self.decoded = 0
        """How many of its bytes are decoded."""
        self._decoder: Decoder | None = decoder
        self._pieces: list[bytes] = []
        """At most two."""
        self._lock = threading.Lock()

    def is_done(self) -> bool:
        """Whether it is completely decoded, or another thread is decoding it."""
        return self.decoded == self.size or self._lock.locked()

    def decode(self, end: int) -> None:
        """Decode up to the byte `end` at least. Raises InvalidImageError."""
        if self.decoded >= end:
            return
        with self._lock:
            if self.decoded >= end:
                return
            if self._decoder is None:
                raise InvalidImageError("the span is damaged")  # the first reader got the error in detail
            if self.decoded:
                end = self.size
            decoder, self._decoder = self._decoder, None
            self._pieces.append(decoder.read(end - self.decoded))
            self.decoded = end
            if end < self.size:
                self._decoder = decoder

    def views(self, begin: int, end: int) -> list[memoryview]:
        """Return views of the decoded bytes from `begin` to `end`."""
        views = []
        for piece in self._pieces:
            if begin < len(piece) and end > 0:
                views.append(memoryview(piece)[max(begin, 0) : end])
            begin -= len(piece)
            end -= len(piece)
        return views

    def whole(self) -> bytes:
        """Return the whole span, decoded. Raises InvalidImageError."""
        self.decode(self.size)
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
