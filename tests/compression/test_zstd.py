"""zstd blobs that are odd: countless frames, frames that hold nothing, claims that are not kept."""

import random
import struct
import tracemalloc
from itertools import pairwise

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ocifs.compression import MAX_SPAN, SPACING, Checkpoint, zstd
from ocifs.compression.zstd import ZstdPass, scan_frames
from ocifs.errors import InvalidImageError, OcifsError
from ocifs.reader import BytesReader

MAGIC = struct.pack("<I", 0xFD2FB528)
NOISE = random.Random(1).randbytes(1 << 20)


def frame(data: bytes, *, sized: bool = True, checked: bool = False, level: int = 1) -> bytes:
    return zstandard.ZstdCompressor(level=level, write_content_size=sized, write_checksum=checked).compress(data)


def skippable(data: bytes, number: int = 0) -> bytes:
    return struct.pack("<II", 0x184D2A50 + number, len(data)) + data


def claiming(size: int, *blocks: bytes) -> bytes:
    """Return a frame whose header claims a size, with a window of 1 MiB."""
    return MAGIC + bytes([3 << 6, (20 - 10) << 3]) + struct.pack("<Q", size) + b"".join(blocks)


def block(data: bytes, kind: int = 0, *, size: int | None = None, last: bool = True) -> bytes:
    """Return a block: raw (0), or of one repeated byte (1)."""
    return struct.pack("<I", (len(data) if size is None else size) << 3 | kind << 1 | last)[:3] + data


def spans(blob: bytes) -> bytes:
    """Go through a blob, and return what its spans decode to, each on its own."""
    with ZstdPass(BytesReader(blob)) as reading:
        stream = b"".join(reading.chunks())
        points = list(reading.checkpoints())
    assert (points[0], points[-1]) == (Checkpoint(0, points[0].offset), Checkpoint(len(stream), len(blob)))
    decoded = b"".join(
        zstd.decode(blob[begin.offset : end.offset], begin, end.start - begin.start).read(end.start - begin.start)
        for begin, end in pairwise(points)
    )
    assert decoded == stream
    return stream


FRAMES = st.one_of(
    st.builds(
        lambda size, kind, sized, checked: (bytes(size) if kind else NOISE[:size], sized, checked),
        st.one_of(st.integers(0, 300), st.integers(0, 700_000)),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(lambda size, number: (size, number), st.integers(0, 5000), st.integers(0, 15)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(FRAMES, max_size=12))
def test_any_mixture_of_frames(pieces: list[tuple[bytes, bool, bool] | tuple[int, int]]) -> None:
    blob = expected = b""
    for piece in pieces:
        if len(piece) == 2:
            blob += skippable(bytes(piece[0]), piece[1])
        else:
            blob += frame(piece[0], sized=piece[1], checked=piece[2])
            expected += piece[0]
    assert spans(blob) == expected


@pytest.mark.parametrize(
    "piece",
    [skippable(b""), frame(b"", sized=False), frame(b""), frame(b"a")],
    ids=["skip", "unsized", "empty", "byte"],
)
def test_memory_does_not_grow_with_the_number_of_frames(piece: bytes) -> None:
    blob = BytesReader(piece * 30_000)
    tracemalloc.start()
    reading = ZstdPass(blob)
    stream = b"".join(reading.chunks())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert stream == b"a" * (len(stream))
    assert peak < 2 << 20


def test_spans_stay_near_the_spacing() -> None:
    blob = b"".join(frame(NOISE[place : place + 10_000]) for place in range(0, 1 << 20, 10_000)) * 4
    with ZstdPass(BytesReader(blob)) as reading:
        list(reading.chunks())
        starts = [point.start for point in reading.checkpoints()]
    assert max(end - begin for begin, end in pairwise(starts)) <= SPACING * 5 // 4
    assert len(starts) <= (4 << 20) // SPACING + 2


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize(("size", "restartable"), [(MAX_SPAN, True), (MAX_SPAN + (128 << 10) + 1, False)])
def test_a_frame_may_be_as_long_as_a_span(size: int, restartable: bool, sized: bool) -> None:
    blob = frame(bytes(size), sized=sized)
    reading = ZstdPass(BytesReader(blob))
    assert reading.restartable == restartable
    assert len(b"".join(reading.chunks())) == size


@pytest.mark.parametrize(
    "blob",
    [
        claiming(100, block(b"only ten..")),
        claiming(5, block(b"more than five")),
        claiming(1 << 60, block(b"little")),
        claiming(3, block(b"x", 1, size=128 << 10)),
        claiming(3, block(b"abc", 3)),
        frame(NOISE, checked=True)[:-1] + b"?",
        frame(b"a") + b"\0" * 20,
        frame(b"a") + b"x",
        MAGIC,
        MAGIC + b"\xff",
    ],
    ids=["less", "more", "huge", "repeated", "reserved", "checksum", "NULs", "byte", "magic", "header"],
)
def test_a_frame_that_is_not_what_it_claims_is_refused(blob: bytes) -> None:
    with pytest.raises(InvalidImageError, match=r"^[^\n]+$"):
        spans(blob)


def test_a_claim_is_not_believed_before_it_is_kept() -> None:
    """What a frame repeats is given in pieces, however much it is."""
    blocks = [block(b"\0", 1, size=128 << 10, last=False)] * 800
    blob = claiming(800 * (128 << 10), *blocks[:-1], block(b"\0", 1, size=128 << 10))
    tracemalloc.start()
    size = sum(map(len, ZstdPass(BytesReader(blob)).chunks()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size == 800 * (128 << 10)
    assert peak < 8 << 20


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_ends_in_one_kind_of_error_or_is_cut_out(data: st.DataObject) -> None:
    blob = bytearray(frame(NOISE[:300] * 20, checked=True) + skippable(b"skip") + frame(bytes(5000), checked=True))
    for _ in range(data.draw(st.integers(1, 3))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    del blob[data.draw(st.integers(0, len(blob) * 4)) :]
    try:
        spans(bytes(blob))
    except OcifsError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message


def test_frames_are_found_without_decoding() -> None:
    blob = skippable(b"12345", 7) + frame(b"a" * 100) + frame(b"b" * 100, sized=False, checked=True)
    found = list(scan_frames(BytesReader(blob)))
    assert [(f.offset, f.end) for f in found] == [(0, 13), (13, found[1].end), (found[1].end, len(blob))]
    assert [f.bound for f in found[:2]] == [0, 100]
    assert found[2].bound >= 100
