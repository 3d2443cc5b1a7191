"""One span of a layer: the first read decodes as far as it needs, the second one the rest.

A random read decodes half a span on average. A reader that returns is sequential, and gets the rest. Safe to use from
any thread.
"""

import threading
from collections.abc import Callable

from ocifs.compression import Decoder
from ocifs.errors import InvalidImageError

_COMPARED = 64 << 10
Pieces = tuple[memoryview | bytes, ...]
Keep = Callable[[bytes], Pieces]
"""Moves decoded bytes to memory that stays valid while a view of it exists."""


def in_heap(data: bytes) -> Pieces:
    """Return decoded bytes unmoved."""
    return (data,)


class Span:
    """`size` bytes, which come from `decoder`; or their beginning, `shared`, which another mount has decoded."""

    def __init__(self, size: int, decoder: Decoder | None, shared: memoryview | None = None) -> None:
        self.size = size
        self.decoded = 0 if shared is None else len(shared)
        """How many of its bytes are decoded."""
        self.is_shared = shared is not None
        """Whether all its decoded bytes are in memory that mounts share."""
        self.keep: Keep = in_heap
        self._has_decoder = decoder is not None
        self._decoder = decoder
        self._pieces: Pieces = () if shared is None else (shared,)
        self._lock = threading.Lock()

    def is_done(self) -> bool:
        """Whether it is completely decoded, or another thread is decoding it."""
        return self.decoded == self.size or self._lock.locked()

    def reaches(self, end: int) -> bool:
        """Whether `decode` can decode up to the byte `end`: it cannot continue what another mount has decoded."""
        return self.decoded >= end or self._has_decoder

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
            self.is_shared = False
            self.decoded = end
            if end < self.size:
                self._decoder = decoder
        return True

    @property
    def pieces(self) -> Pieces:
        """The decoded bytes."""
        return self._pieces

    def replace(self, view: memoryview) -> bool | None:
        """Use the decoded bytes in `view` instead of those here, if they begin with the same.

        Return whether they do; None, if they are fewer, or a thread is decoding.
        """
        if not self._lock.acquire(blocking=False):
            return None
        try:
            if self.decoded > len(view):
                return None
            if not _begins_with(view, self._pieces):
                return False
            if len(view) == self.size:
                self._decoder = None
            else:
                view = view[: self.decoded]
            self._pieces = (view,)
            self.decoded = len(view)
            self.is_shared = True
        finally:
            self._lock.release()
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


def _begins_with(view: memoryview, pieces: Pieces) -> bool:
    """Whether `view` begins with the bytes of `pieces`. Comparing copies is faster: memoryviews compare by items."""
    position = 0
    for piece in pieces:
        for begin in range(0, len(piece), _COMPARED):
            part = bytes(piece[begin : begin + _COMPARED])
            if bytes(view[position : position + len(part)]) != part:
                return False
            position += len(part)
    return True
