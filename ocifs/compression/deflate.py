"""Restart a deflate stream in the middle of a byte, with any zlib (RFC 1951).

A checkpoint may lie between two bits: the top `bits` bits of its byte belong to the span. Python's zlib modules
have no function that takes single bits (zlib's `inflatePrime`), but deflate allows empty blocks. A prefix of empty,
non-final blocks whose length in bits is `8 - bits` modulo 8, followed by those `bits` bits, is a whole number of
bytes. The rest of the span follows unchanged.
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

# BFINAL=0, BTYPE=10, HLIT=0, HDIST=0, HCLEN=15. Of the 19 code length codes, in the order of RFC 1951, those for 18
# (third) and 1 (eighteenth) are one bit long: 0 encodes 1, and 1 encodes 18. Then follow 138 and 118 zeros, a length
# of 1 for symbol 256 and for the one distance code, and symbol 256 itself: 93 bits.
_EMPTY_DYNAMIC = _bits(
    (0, 1), (2, 2), (0, 5), (0, 5), (15, 4),
    *((1 if index in (2, 17) else 0, 3) for index in range(19)),
    (1, 1), (138 - 11, 7), (1, 1), (118 - 11, 7), (0, 1), (0, 1),
    (0, 1),
)  # fmt: skip


def _prefix(bits: int) -> tuple[int, int]:
    """Return empty blocks whose length in bits is `-bits` modulo 8, as (packed value, width)."""
    dynamic = bits % 2
    fixed = ((-bits - dynamic * _EMPTY_DYNAMIC[1]) % 8) // 2
    return _bits(*[_EMPTY_DYNAMIC] * dynamic, *[_EMPTY_FIXED] * fixed)


_PREFIXES = [_prefix(bits) for bits in range(8)]


def align(data: bytes, bits: int) -> bytes:
    """Return, byte-aligned, the deflate stream that begins with the top `bits` bits of `data[0]`.

    With `bits` 0 the stream begins with `data[0]` itself: return `data`.
    """
    if not bits:
        return data
    value, width = _PREFIXES[bits]
    value |= (data[0] >> (8 - bits)) << width
    return value.to_bytes((width + bits) // 8, "little") + data[1:]
