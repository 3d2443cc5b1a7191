"""Restarting a deflate stream in the middle of a byte, with any zlib (RFC 1951).

A checkpoint may lie between two bits: the top `bits` bits of the byte there belong to the span. Python's zlib
modules cannot be given single bits (zlib's `inflatePrime`), but they need not be: deflate allows empty blocks.
A prefix of empty, non-final blocks whose length in bits is `8 - bits` modulo 8, followed by those `bits` bits,
is a whole number of bytes; the rest of the span follows as it lies.
"""


def _bits(*fields: tuple[int, int]) -> tuple[int, int]:
    """Pack (value, width) fields, first field in the lowest bits; return (packed value, width)."""
    packed = length = 0
    for value, width in fields:
        packed |= value << length
        length += width
    return packed, length


# BFINAL=0, BTYPE=01, then symbol 256, whose fixed code is seven zeros: 10 bits.
_EMPTY_FIXED = _bits((0, 1), (1, 2), (0, 7))

# BFINAL=0, BTYPE=10, HLIT=0, HDIST=0, HCLEN=15; of the 19 code length codes, in the order RFC 1951 gives them,
# those for 18 (third) and 1 (eighteenth) are one bit long, 0 standing for 1 and 1 for 18; so 138 and 118 zeros,
# a length of 1 for symbol 256 and for the one distance code; then symbol 256 itself: 93 bits.
_EMPTY_DYNAMIC = _bits(
    (0, 1), (2, 2), (0, 5), (0, 5), (15, 4),
    *((1 if index in (2, 17) else 0, 3) for index in range(19)),
    (1, 1), (138 - 11, 7), (1, 1), (118 - 11, 7), (0, 1), (0, 1),
    (0, 1),
)  # fmt: skip


def _prefix(bits: int) -> tuple[int, int]:
    """Return empty blocks of a length that is `-bits` modulo 8, as (packed value, width)."""
    odd = bits % 2
    fixed = ((-bits - odd * _EMPTY_DYNAMIC[1]) % 8) // 2
    return _bits(*[_EMPTY_DYNAMIC] * odd, *[_EMPTY_FIXED] * fixed)


_PREFIXES = [_prefix(bits) for bits in range(8)]


def align(data: bytes, bits: int) -> bytes:
    """Return a deflate stream like the one that begins with the top `bits` bits of `data[0]`, byte-aligned.

    With `bits` 0 the stream begins at `data[0]` itself, and `data` is returned.
    """
    if not bits:
        return data
    value, width = _PREFIXES[bits]
    value |= (data[0] >> (8 - bits)) << width
    return value.to_bytes((width + bits) // 8, "little") + data[1:]
