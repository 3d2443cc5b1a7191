"""Packs are made of recorded ranges, extended, and kept within their bound."""

import pytest

from ocifs.hotpack.build import Built, build_pack
from ocifs.hotpack.format import PackTable
from ocifs.hotpack.recording import Range
from ocifs.layer.layer import Layer
from ocifs.reader import BytesReader, ReaderAt
from tests.hotpack.packs import MIB, layer_of, opened, tar_of

PAGE = 4096
KIB = 1 << 10
WEEK = 7 * 86400
TARS = [tar_of(2 * MIB, 1), tar_of(MIB, 2)]
FIRST, SECOND, THIRD = (0, 0, 300 * KIB), (1, PAGE, 40 * KIB), (0, MIB, MIB + 64 * KIB)


@pytest.fixture(scope="module")
def layers() -> list[Layer]:
    return [layer_of(number, tar) for number, tar in enumerate(TARS)]


def build(
    layers: list[Layer],
    found: list[Range],
    limit: int = 64 * MIB,
    old: Built | None = None,
    now: float = 0.0,
    *,
    is_scan: bool = False,
) -> Built:

    def missing(skip: list[Range]) -> list[Range]:
        return [each for each in found if each[:2] not in {(layer, begin) for layer, begin, _ in skip}]

    return build_pack(layers, missing, limit, None if old is None else read(layers, old), now, is_scan=is_scan)


def read(layers: list[Layer], built: Built) -> tuple[ReaderAt, PackTable]:
    return opened(layers, b"".join(built.parts))


def blocks(layers: list[Layer], built: Built) -> list[Range]:
    """Return the ranges in a pack, after verifying all its bytes."""
    file, table = read(layers, built)
    found = []
    for frame in table.frames:
        views = frame.decode(file.pread(frame.stored, frame.offset))
        assert views is not None
        for block, view in zip(frame.blocks, views, strict=True):
            assert bytes(view) == TARS[block.layer][block.offset : block.end]
            found.append((block.layer, block.offset, block.end))
    return found


def test_ranges_are_in_blocks_in_their_order(layers: list[Layer]) -> None:
    built = build(layers, [FIRST, SECOND], now=5.5)
    assert blocks(layers, built) == [
        (0, 0, 128 * KIB), (0, 128 * KIB, 256 * KIB), (0, 256 * KIB, 300 * KIB), SECOND,
    ]  # fmt: skip
    assert built.size == built.added == 300 * KIB + 36 * KIB
    _, table = read(layers, built)
    assert table.recordings == ((5, 4),)
    assert [len(frame.blocks) for frame in table.frames] == [2, 2]


def test_another_recording_extends_a_pack(layers: list[Layer]) -> None:
    first = build(layers, [SECOND], now=1)
    second = build(layers, [SECOND, THIRD], old=first, now=2)
    assert blocks(layers, second) == [SECOND, THIRD]
    assert (second.kept, second.added) == (36 * KIB, 64 * KIB)
    assert read(layers, second)[1].recordings == ((1, 1), (2, 1))


def test_a_new_recording_does_not_replace_a_recent_one(layers: list[Layer]) -> None:
    first = build(layers, [SECOND], now=1)
    second = build(layers, [FIRST], 36 * KIB + 200 * KIB, first, now=WEEK)
    assert blocks(layers, second) == [SECOND, (0, 0, 128 * KIB)]
    third = build(layers, [THIRD], 36 * KIB, first, now=2)
    assert blocks(layers, third) == [SECOND]
    assert third.added == 0


def test_an_old_recording_makes_room(layers: list[Layer]) -> None:
    first = build(layers, [SECOND], now=1)
    second = build(layers, [THIRD], old=first, now=2)
    third = build(layers, [(0, 0, 128 * KIB)], 200 * KIB, second, now=2 + WEEK)
    assert blocks(layers, third) == [THIRD, (0, 0, 128 * KIB)]


def test_a_pack_over_the_bound_stays_as_it_is(layers: list[Layer]) -> None:
    """Another mount may have a larger one."""
    first = build(layers, [SECOND], now=1)
    second = build(layers, [THIRD], old=first, now=2)
    third = build(layers, [FIRST], 40 * KIB, second, now=2 * WEEK)
    assert blocks(layers, third) == [SECOND, THIRD]
    assert third.added == 0


def test_the_next_recording_takes_the_room_of_a_scan(layers: list[Layer]) -> None:
    scan = build(layers, [FIRST], 320 * KIB, now=WEEK, is_scan=True)
    assert read(layers, scan)[1].recordings == ((0, 3),)
    assert blocks(layers, build(layers, [THIRD], 320 * KIB, scan, now=2 * WEEK)) == [THIRD]
    assert blocks(layers, build(layers, [], 320 * KIB, scan, now=WEEK)) == blocks(layers, scan)


def test_a_recording_of_the_future_is_one_of_now(layers: list[Layer]) -> None:
    future = build(layers, [SECOND], now=100 * WEEK)
    again = build(layers, [THIRD], old=future, now=WEEK)
    assert read(layers, again)[1].recordings == ((WEEK, 1), (WEEK, 1))


def test_bytes_that_are_known_are_not_decoded(layers: list[Layer]) -> None:
    known = {SECOND: TARS[1][PAGE : 40 * KIB]}
    lost = [layers[0], Layer(1, layers[1].index, BytesReader(b""), layers[1]._cache)]  # type: ignore[arg-type]
    built = build_pack(lost, lambda skip: [SECOND, THIRD], 64 * MIB, read=known.get)
    assert blocks(layers, built) == [SECOND, THIRD]


def test_a_damaged_frame_is_made_again(layers: list[Layer]) -> None:
    first = build(layers, [(0, 0, 256 * KIB), SECOND])
    data = bytearray(b"".join(first.parts))
    frame = read(layers, first)[1].frames[0]
    data[frame.offset + 1000] ^= 1
    damaged = Built([bytes(data)], first.size, 0, 0)
    again = build(layers, [(0, 0, 256 * KIB), SECOND], old=damaged)
    assert sorted(blocks(layers, again)) == [(0, 0, 128 * KIB), (0, 128 * KIB, 256 * KIB), SECOND]
    assert again.kept == 36 * KIB


def test_a_range_that_cannot_be_read_is_left_out() -> None:
    layer = layer_of(0, TARS[0])
    broken = Layer(1, layer.index, BytesReader(b""), layer._cache)  # type: ignore[arg-type]
    built = build([layer, broken], [(1, 0, PAGE), THIRD])
    assert [
        (block.layer, block.offset) for frame in read([layer, broken], built)[1].frames for block in frame.blocks
    ] == [THIRD[:2]]
