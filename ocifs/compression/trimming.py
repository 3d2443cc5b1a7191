"""Trim a window: zero the bytes that the stream never refers to, so that the window compresses to a tenth.

Only the first 32 KiB after a checkpoint can refer to its window. They are decoded twice more, with windows in which
each byte encodes its own position: once the low half, once the high half. Bytes that are copied from the window then
show where they came from. Literals look like positions too, which at most keeps a few bytes that nothing refers to.
"""

from zlib_ng import zlib_ng

from ocifs.compression.deflate import align
from ocifs.errors import InvalidImageError

_SIZE = 32 << 10
_RAW_WBITS = -15
_FROM_WINDOW = 0x80
"""Set in every high half."""
_LOW = bytes(range(256)) * (_SIZE >> 8)
_HIGH = b"".join(bytes([_FROM_WINDOW | page]) * 256 for page in range(_SIZE >> 8))


def trim(window: bytes, data: bytes, bits: int) -> bytes:
    """Return `window` with zeros where the span with the stored bytes `data` does not need it.

    `bits` is that of its checkpoint. Raises InvalidImageError if the span does not decode.
    """
    stream = align(data, bits)
    unused = _SIZE - len(window)  # the window is the end of 32 KiB
    low = _decoded(stream, _LOW[unused:])
    halves = bytearray(2 * len(low))
    halves[::2] = low
    halves[1::2] = _decoded(stream, _HIGH[unused:])
    trimmed = bytearray(len(window))
    for position in set(memoryview(halves).cast("H")):
        place = (position & 0x7FFF) - unused
        if position >> 15 and place >= 0:
            trimmed[place] = window[place]
    if _decoded(stream, bytes(trimmed)) != _decoded(stream, window):
        raise InvalidImageError("a window cannot be trimmed")
    return bytes(trimmed)


def _decoded(stream: bytes, window: bytes) -> bytes:
    """Return the first 32 KiB of a span, fewer if a member or the span ends before."""
    try:
        return zlib_ng.decompressobj(wbits=_RAW_WBITS, zdict=window).decompress(stream, _SIZE)
    except zlib_ng.error as error:  # type: ignore[misc]  # its stub calls it a value
        raise InvalidImageError(f"span: {error}") from None
