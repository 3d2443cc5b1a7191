"""Inflate a part of a gzip blob: a span from its checkpoint, or members from their beginning.

Random access never reads a whole member, so zlib checks no CRC there; the digests of the spans, which the layer keeps,
take its place.
"""

import re

from zlib_ng import zlib_ng

from ocifs.compression import Checkpoint
from ocifs.compression.deflate import align
from ocifs.errors import InvalidImageError

_PADDING = re.compile(rb"\0*")
_GZIP_WBITS = 31
_RAW_WBITS = -15
_TRAILER = 8  # CRC32 and ISIZE
_STEP = 1 << 10
"""Bytes of input first passed to the decoder for a member that begins inside a span."""


class Inflation:
    """Inflates a span, which may begin inside a byte and cross from one member to the next.

    Without a checkpoint, the data begin with a member. zlib copies the input that remains at the end of a member. So
    input after a member goes in pieces that double from `_STEP`: the time is linear in it, however many the members.
    """

    def __init__(self, data: bytes, checkpoint: Checkpoint | None = None) -> None:
        self.produced = 0
        """Bytes of the span that were read."""
        self._offset = checkpoint.offset if checkpoint else 0
        self._input = align(data, checkpoint.bits) if checkpoint else data
        self._used = 0
        """Bytes of the input that are used."""
        self._step = len(self._input)
        self._inflater = (
            zlib_ng.decompressobj(wbits=_RAW_WBITS, zdict=checkpoint.window)
            if checkpoint
            else zlib_ng.decompressobj(wbits=_GZIP_WBITS)
        )
        # zlib skips the trailer itself only if it has read the member's header.
        self._trailer = _TRAILER if checkpoint else 0

    def read(self, size: int, /) -> bytes:
        """Return the next `size` bytes. Raises InvalidImageError."""
        data = self._next(size) if size else b""
        if len(data) == size:  # nearly always
            self.produced += size
            return data
        pieces = bytearray(data)
        while left := size - len(pieces):
            data = self._next(left)
            pieces += data
            if not data and self._used >= len(self._input):
                raise InvalidImageError(f"span at byte {self._offset} ends {left} bytes early")
        self.produced += size
        return bytes(pieces)

    def follow(self, data: bytes, bits: int) -> bool:
        """Continue with the next span, whose stored bytes are `data`, once this one is read to its end.

        `bits` is that of the next checkpoint: if it is not 0, both spans share a byte. This saves the window. Return
        False if a member has just ended, so that the next span has to begin at its checkpoint.
        """
        if self._inflater.eof:
            return False
        left = self._input[self._used :]
        self.produced = 0
        self._offset += self._used
        shared = 1 if bits else 0
        self._input, self._used = (left + data[shared:], 0) if left else (data, shared)
        self._step = len(self._input)
        return True

    def is_at_end(self) -> bool:
        """Whether only NULs and empty members follow the bytes read so far. Raises InvalidImageError."""
        while not self._inflater.eof or self._used < len(self._input):
            if self._next(1) or not (self._inflater.eof or self._used < len(self._input)):
                return False
        return self._used == len(self._input)

    def _next(self, most: int) -> bytes:
        """Return up to `most` bytes from the next piece of input, possibly none."""
        if self._inflater.eof:
            self._inflater = zlib_ng.decompressobj(wbits=_GZIP_WBITS)
            self._step = _STEP
        piece = memoryview(self._input)[self._used : self._used + self._step]
        try:
            data = self._inflater.decompress(piece, most)
        except zlib_ng.error as error:  # type: ignore[misc]  # its stub calls it a value
            raise InvalidImageError(f"span at byte {self._offset}: {error}") from None
        left = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail
        self._used += len(piece) - len(left)
        self._step *= 2
        if self._inflater.eof:
            self._used += self._trailer
            self._trailer = 0
            padding = _PADDING.match(self._input, self._used)
            self._used += len(padding[0]) if padding else 0
        return data
