"""One span of a layer: the first read decodes as far as it needs, the second one the rest.

A random read decodes half a span on average. A reader that returns is sequential, and gets the rest. Safe to use from
any thread.
"""

import threading
from collections.abc import Callable

from ocifs.compression import Decoder
from ocifs.errors import InvalidImageError

Pieces = tuple[memoryview | bytes, ...]
Keep = Callable[[bytes], Pieces]
"""Puts decoded bytes where they stay while there is a view of them."""


def in_heap(data: bytes) -> Pieces:
    """Leave decoded bytes where they are."""
    return (data,)


class Span:
    """`size` bytes, which come from `decoder`; or their beginning, `shared`, which another mount has decoded."""

    def __init__(self, size: int, decoder: Decoder | None, shared: memoryview | None = None) -> None:
        self.size = size
        self.decoded = 0 if shared is None else len(shared)
        """How many of its bytes are decoded."""
        self.shared = shared
        self.keep: Keep = in_heap
        self._decoder = decoder
        self._pieces: Pieces = () if shared is None else (shared,)
        self._lock = threading.Lock()

    def is_done(self) -> bool:
        """Whether it is completely decoded, or another thread is decoding it."""
        return self.decoded == self.size or self._lock.locked()

    def reaches(self, end: int) -> bool:
        """Whether `decode` can decode up to the byte `end`: a shared span cannot be decoded further."""
        return self.shared is None or self.decoded >= end

    def decode(self, end: int) -> bool:
        """Decode up to the byte `end` at least; return whether there was something to do. Raises InvalidImageError."""
        if self.decoded >= end:
            return False
        with self._lock:
            if self.decoded >= end:
                return False
            if self._decoder is None:
                raise InvalidImageError("the span is damaged")  # the first reader got the error in detail
            if self.decoded:
                end = self.size
            decoder, self._decoder = self._decoder, None
            self._pieces += self.keep(decoder.read(end - self.decoded))
            self.decoded = end
            if end < self.size:
                self._decoder = decoder
        return True

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
        piece = self._pieces[0] if len(self._pieces) == 1 else b""
        return piece if isinstance(piece, bytes) and piece else b"".join(self._pieces)
