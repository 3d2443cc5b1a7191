"""A trimmed window: spans decode from it to the same bytes, and most of it is zero."""

import random
from itertools import pairwise

import pytest

from ocifs.compression.blocks import BlockPass
from ocifs.compression.inflation import Inflation
from ocifs.compression.trimming import trim
from ocifs.errors import InvalidImageError
from ocifs.reader import BytesReader
from tests.checkpoints import unpacked
from tests.images import Layer

WORDS = [random.Random(number).randbytes(number % 9 + 2) for number in range(3000)]
DATA = b"".join(random.Random(0).choices(WORDS, k=700_000))
BLOB = Layer(DATA, "gzip").blob


def test_spans_decode_from_trimmed_windows() -> None:
    with BlockPass(BytesReader(BLOB)) as reading:
        list(reading.chunks())
        points = unpacked(reading)
    assert len(points) > 3
    for point, end in list(pairwise(points))[1:]:
        stored = BLOB[point.offset : end.offset + 1]
        trimmed = trim(point.window, stored, point.bits)
        assert len(trimmed) == len(point.window) == 32 << 10
        assert all(new in (0, old) for new, old in zip(trimmed, point.window, strict=True))
        assert 0 < len(trimmed) - trimmed.count(0) < len(trimmed) * 3 // 4
        size = end.start - point.start
        assert Inflation(stored, point._replace(window=trimmed)).read(size) == DATA[point.start : end.start]


def test_a_window_that_is_shorter_ends_where_the_span_begins() -> None:
    blob = Layer(b"0123456789" * 4000, "gzip").blob
    assert trim(b"", blob[10:], 0) == b""


def test_a_span_that_does_not_decode_is_an_error() -> None:
    with pytest.raises(InvalidImageError):
        trim(bytes(32 << 10), b"\xff" * 100, 0)
