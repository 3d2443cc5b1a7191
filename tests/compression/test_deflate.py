"""A deflate stream goes on from inside a byte, with any zlib."""

import zlib

import pytest
from zlib_ng import zlib_ng

from ocifs.compression.deflate import align

TEXT = b"a stream that is long enough to have something in it " * 20


def shifted(data: bytes, bits: int) -> bytes:
    """Return `data` so that its first bit is the first of the top `bits` bits of the first byte."""
    value = int.from_bytes(data, "little") << (8 - bits)
    return value.to_bytes(len(data) + 1, "little")


@pytest.mark.parametrize("bits", range(1, 8))
@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize("inflate", [zlib.decompressobj, zlib_ng.decompressobj], ids=["zlib", "zlib-ng"])
def test_align(bits: int, level: int, inflate: type) -> None:
    deflate = zlib.compressobj(level, zlib.DEFLATED, -15)
    stream = deflate.compress(TEXT) + deflate.flush()
    if level == 0:
        # A stored block is padded to a byte, so it cannot be shifted: an empty one of Huffman codes can.
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15, 8, zlib.Z_FIXED)
        stream = deflate.compress(TEXT) + deflate.flush()
    noise = shifted(stream, bits)
    noise = bytes([noise[0] | (1 << (8 - bits)) - 1]) + noise[1:]  # the bits before belong to something else
    assert inflate(wbits=-15).decompress(align(noise, bits)) == TEXT


def test_a_stream_on_a_byte_is_left_alone() -> None:
    assert align(b"abc", 0) == b"abc"
