"""Checkpoints between deflate blocks: as far apart as they should be, and what is left to the other pass."""

import random
import zlib
from itertools import pairwise

import pytest

from ocifs.compression import Checkpoint, zng
from ocifs.compression.blocks import SPACING, BlockPass
from ocifs.compression.gzip import decode
from ocifs.errors import InvalidImageError
from ocifs.reader import BytesReader
from tests.checkpoints import unpacked

if not zng.can_stop_between_blocks():
    pytest.skip("this zlib-ng does not show its functions", allow_module_level=True)

CHANCE = random.Random(4)
DATA = b"".join(CHANCE.randbytes(CHANCE.randrange(1, 3000)) + bytes(CHANCE.randrange(3000)) for _ in range(12_000))


def test_checkpoints_are_about_a_spacing_apart() -> None:
    blob = zlib.compress(DATA, wbits=31)
    told: list[list[Checkpoint]] = []
    with BlockPass(BytesReader(blob)) as reading:
        for _ in reading.chunks():
            if reading.found and (not told or reading.found is not told[-1]):
                told.append(reading.found)
        points = unpacked(reading)
        assert list(reading.checkpoints())[: len(told[-1])] == told[-1]
    assert len(told) > 1
    spans = [end.start - begin.start for begin, end in pairwise(points)]
    assert all(SPACING <= span < SPACING * 9 // 8 for span in spans[:-1])
    for begin, end in pairwise(points):
        stored = blob[begin.offset : end.offset + (end.bits > 0)]
        assert (
            decode(stored, begin, end.start - begin.start).read(end.start - begin.start)
            == DATA[begin.start : end.start]
        )


@pytest.mark.parametrize("follows", [b"\0" * 512, b"garbage", b"\x1f", b"\x1f\x8c"])
def test_without_warnings_nothing_may_follow_a_member(follows: bytes) -> None:
    with (
        BlockPass(BytesReader(zlib.compress(b"data", wbits=31) + follows)) as reading,
        pytest.raises(InvalidImageError, match="follow the gzip stream"),
    ):
        list(reading.chunks())


def test_a_member_may_begin_anywhere_in_what_is_read_at_once() -> None:
    for size in (262_144 - 18, 262_144 - 9, 262_144 - 1, 262_144):  # with a header of 10 bytes and a trailer of 8
        stored = zlib.compressobj(0, zlib.DEFLATED, 31)
        first = stored.compress(bytes(size)) + stored.flush()
        for cut in range(3):
            blob = first + zlib.compress(b"next" * cut, wbits=31) + zlib.compress(b"last", wbits=31)
            with BlockPass(BytesReader(blob)) as reading:
                assert b"".join(reading.chunks()) == bytes(size) + b"next" * cut + b"last"
