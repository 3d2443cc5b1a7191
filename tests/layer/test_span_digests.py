"""A blob is read once, whatever was known of it when; and its digests are those of its bytes."""

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocifs.compression import MAX_SPAN, SPACING, Checkpoint
from ocifs.errors import InvalidImageError
from ocifs.layer.span_digests import SpanDigester
from ocifs.reader import BytesReader
from ocifs.spec.digest import Digest


class _Counted(BytesReader):
    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.read = 0

    def pread(self, size: int, offset: int) -> bytes:
        data = super().pread(size, offset)
        self.read += len(data)
        return data


def _expected(data: bytes, points: list[Checkpoint]) -> list[bytes]:
    return [hashlib.sha256(data[a.offset : b.offset + (b.bits > 0)]).digest() for a, b in pairwise(points)]


@st.composite
def _blobs(draw: st.DrawFn) -> tuple[bytes, list[Checkpoint]]:
    """A blob, and checkpoints in it that are as far apart as `evenly` would have them, the end being the last."""
    data = draw(st.binary(min_size=12, max_size=200))
    offsets = sorted(draw(st.sets(st.integers(1, len(data) - 2), max_size=12)))
    bits = draw(st.lists(st.integers(0, 7), min_size=len(offsets), max_size=len(offsets)))
    points = [Checkpoint(number * SPACING, *place) for number, place in enumerate(zip(offsets, bits, strict=True))]
    return data, [*(points or [Checkpoint(0, 0)]), Checkpoint(len(offsets) * SPACING, len(data))]


@given(_blobs(), st.lists(st.integers(0, 13), max_size=5))
def test_what_is_followed_and_what_is_not_come_out_the_same(
    blob: tuple[bytes, list[Checkpoint]], known: list[int]
) -> None:
    data, points = blob
    reader = _Counted(data)
    look = SpanDigester(Digest.of(data), reader)
    for count in sorted(known):
        look.follow(points[: min(count, len(points) - 1)])
    assert look.finish(points) == _expected(data, points)
    shared = sum(point.bits > 0 for point in points[1:-1])
    assert reader.read <= len(data) + shared


def test_what_was_followed_is_not_read_again_at_the_end() -> None:
    data = bytes(range(100))
    points = [Checkpoint(number * SPACING, 10 * number) for number in range(11)]
    reader = _Counted(data)
    look = SpanDigester(Digest.of(data), reader)
    look.follow(points[:9])
    assert reader.read == 70  # the last one may be left out yet
    look.finish(points)
    assert reader.read == 100


def test_all_is_read_anew_if_other_spans_come_out() -> None:
    data = bytes(range(100))
    look = SpanDigester(Digest.of(data), BytesReader(data))
    look.follow([Checkpoint(number * SPACING, 10 * number) for number in range(8)])
    points = [Checkpoint(0, 0), Checkpoint(SPACING, 35, 2), Checkpoint(2 * SPACING, 100)]
    assert look.finish(points) == _expected(data, points)


@given(_blobs(), st.lists(st.integers(1, 99), min_size=1, max_size=9, unique=True), st.integers(2, 10))
def test_another_pass_over_the_blob_is_followed_from_the_beginning(
    blob: tuple[bytes, list[Checkpoint]], offsets: list[int], count: int
) -> None:
    """As when the spans of the first pass are too long to decode, or it found the blob damaged."""
    data, points = blob
    first = [Checkpoint(number * SPACING, min(each, len(data))) for number, each in enumerate(sorted(offsets))]
    digester = SpanDigester(Digest.of(data), BytesReader(data))
    digester.follow(first)
    digester.follow(points[:count])
    assert digester.finish(points) == _expected(data, points)


def test_a_span_too_long_is_not_read_before_it_is_judged() -> None:
    reader = _Counted(bytes(3 * MAX_SPAN))
    look = SpanDigester(Digest.of(b""), reader)
    look.follow([Checkpoint(0, 0), Checkpoint(2 * SPACING, 3 * MAX_SPAN - 5), Checkpoint(4 * SPACING, 3 * MAX_SPAN)])
    assert reader.read == 0


def test_another_digest() -> None:
    look = SpanDigester(Digest.of(b"other"), BytesReader(b"bytes"))
    with pytest.raises(InvalidImageError, match="do not match its digest"):
        look.finish([Checkpoint(0, 0), Checkpoint(5, 5)])


def test_a_blob_that_became_shorter() -> None:
    look = SpanDigester(Digest.of(b"bytes"), BytesReader(b"byt"))
    with pytest.raises(InvalidImageError, match="became shorter"):
        look.finish([Checkpoint(0, 0), Checkpoint(5, 5)])
