"""zlib-ng by its own interface: what it gives, where it stops, and that nothing is written outside of a buffer."""

import ctypes
import random
import zlib
from typing import Any

import pytest

from ocifs.compression import zng
from ocifs.compression.zng import Inflate, InflateError

if not zng.can_stop_between_blocks():
    pytest.skip("this zlib-ng does not show its functions", allow_module_level=True)

DATA = random.Random(1).randbytes(60_000) + bytes(90_000) + b"text " * 20_000


def blocks(*parts: bytes) -> bytes:
    """Return a gzip member of which each part ends in a block border inside a byte or at its end."""
    deflate = zlib.compressobj(6, zlib.DEFLATED, 31)
    return b"".join(deflate.compress(part) + deflate.flush(zlib.Z_PARTIAL_FLUSH) for part in parts) + deflate.flush()


def test_it_inflates_into_a_part_of_a_buffer() -> None:
    buffer = bytearray(b"?" * (len(DATA) + 20))
    with Inflate() as inflate:
        inflate.feed(zlib.compress(DATA, wbits=31))
        assert inflate.into(buffer, 10, len(DATA) + 10, stop_between_blocks=False) == len(DATA)
        assert inflate.into(buffer, 0, 1, stop_between_blocks=False) == 0
        assert inflate.ended
    assert buffer == b"?" * 10 + DATA + b"?" * 10


@pytest.mark.parametrize(("begin", "end"), [(-1, 5), (0, 11), (5, 5), (6, 5), (11, 12)])
def test_what_is_not_inside_of_the_buffer_is_refused(begin: int, end: int) -> None:
    with Inflate() as inflate, pytest.raises(ValueError, match="not inside 10 bytes"):
        inflate.into(bytearray(10), begin, end, stop_between_blocks=False)


def test_it_stops_between_blocks_and_knows_the_window() -> None:
    parts = [DATA[:50_000], DATA[50_000:50_007], DATA[50_007:]]
    buffer = bytearray(len(DATA))
    filled = 0
    stops: dict[int, int] = {}
    with Inflate() as inflate:
        inflate.feed(blocks(*parts))
        while not inflate.ended:
            filled += inflate.into(buffer, filled, len(buffer), stop_between_blocks=True) if filled < len(buffer) else 0
            if (bits := inflate.bits) is not None:
                stops[filled] = bits
                assert inflate.window() == DATA[max(filled - (32 << 10), 0) : filled]
            if filled == len(buffer):
                break
    assert buffer == DATA
    assert {0, 50_000, 50_007} <= stops.keys()
    assert all(0 <= bits < 8 for bits in stops.values())
    assert any(stops.values())


def test_one_member_after_the_other() -> None:
    buffer = bytearray(8)
    with Inflate() as inflate:
        inflate.feed(zlib.compress(b"one", wbits=31) + zlib.compress(b"two", wbits=31))
        assert inflate.into(buffer, 0, 8, stop_between_blocks=False) == 3
        assert inflate.head(2) == b"\x1f\x8b"
        inflate.begin_member()
        assert inflate.into(buffer, 3, 8, stop_between_blocks=False) == 3
        assert inflate.ended
        assert inflate.left == 0
    assert buffer[:6] == b"onetwo"


def test_input_can_be_skipped_as_far_as_it_goes() -> None:
    buffer = bytearray(8)
    with Inflate() as inflate:
        inflate.feed(b"\0\0\0" + zlib.compress(b"one", wbits=31))
        inflate.skip(3)
        assert inflate.into(buffer, 0, 8, stop_between_blocks=False) == 3
        for size in (1, -1):
            with pytest.raises(ValueError, match=f"cannot skip {size} of 0 bytes"):
                inflate.skip(size)


@pytest.mark.parametrize("place", [0, 1, 2, 40, -8, -1])
def test_damage_is_an_error(place: int) -> None:
    damaged = bytearray(zlib.compress(DATA[:1000], wbits=31))
    damaged[place] ^= 0xFF
    with Inflate() as inflate:
        inflate.feed(bytes(damaged))
        with pytest.raises(InflateError):
            inflate.into(bytearray(2000), 0, 2000, stop_between_blocks=False)


class Older(ctypes.CDLL):
    """A library that has another structure."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: -6  # Z_VERSION_ERROR


def test_another_version_is_not_used() -> None:
    assert not zng.can_stop_between_blocks(Older(None))


def test_a_library_without_zlib_ng_is_not_used() -> None:
    assert not zng.can_stop_between_blocks(ctypes.CDLL(None))
