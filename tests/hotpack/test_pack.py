"""An opened pack: bytes of the layers, or nothing, never wrong ones."""

import os
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ocifs.errors import OcifsError
from ocifs.hotpack.arriving import ArrivingFile
from ocifs.hotpack.format import PackTable, read_table
from ocifs.hotpack.pack import HotPack
from ocifs.layer.layer import Layer
from ocifs.reader import BytesReader, ReaderAt
from tests.hotpack.packs import MIB, layer_of, opened, pack_of, streams, tar_of

KIB = 1 << 10
TARS = [tar_of(2 * MIB, 1), tar_of(MIB, 2)]
FOUND = [(0, 0, 300 * KIB), (1, 4 * KIB, 40 * KIB), (0, 300 * KIB, 304 * KIB), (0, MIB, 2 * MIB)]


@pytest.fixture(scope="module")
def layers() -> list[Layer]:
    return [layer_of(number, tar) for number, tar in enumerate(TARS)]


@pytest.fixture(scope="module")
def data(layers: list[Layer]) -> bytes:
    return pack_of(layers, FOUND)


@pytest.fixture
def pack(layers: list[Layer], data: bytes) -> HotPack:
    return HotPack(lambda: opened(layers, data), verified=True)


def joined(views: list[memoryview] | None) -> bytes | None:
    return None if views is None else b"".join(views)


def test_any_part_of_a_range_is_read(pack: HotPack) -> None:
    chance = random.Random(3)
    for _ in range(300):
        layer, begin, end = chance.choice([(0, 0, 304 * KIB), (1, 4 * KIB, 40 * KIB), (0, MIB, 2 * MIB)])
        start = chance.randrange(begin, end)
        size = chance.randrange(end - start) + 1
        assert joined(pack.views(layer, size, start)) == TARS[layer][start : start + size]


@pytest.mark.parametrize(
    ("layer", "begin", "end"),
    [(0, 303 * KIB, 305 * KIB), (0, 500 * KIB, 501 * KIB), (0, MIB - 1, MIB + 1), (1, 0, 5 * KIB), (2, 0, 1)],
)
def test_a_range_with_a_missing_byte_is_not_there(pack: HotPack, layer: int, begin: int, end: int) -> None:
    assert pack.has(layer, end - begin, begin) is None  # not known yet
    assert pack.views(layer, end - begin, begin) is None
    assert pack.has(layer, end - begin, begin) is False
    assert pack.views_at_hand(layer, end - begin, begin) is None


def test_only_decoded_bytes_are_at_hand(pack: HotPack) -> None:
    assert pack.views_at_hand(0, 10, 0) is None
    assert pack.pieces_at_hand(0, 0, 10) == []
    pack.views(0, 10, 0)
    assert joined(pack.views_at_hand(0, 10, 100)) == TARS[0][100:110]
    assert pack.views_at_hand(1, 10, 4 * KIB) is None  # in another frame
    assert [(at, bytes(piece)) for at, piece in pack.pieces_at_hand(0, 100, 129 * KIB)] == [
        (100, TARS[0][100 : 128 * KIB]), (128 * KIB, TARS[0][128 * KIB : 129 * KIB]),
    ]  # fmt: skip
    assert pack.pieces_at_hand(1, 0, MIB) == pack.pieces_at_hand(2, 0, 1) == []


def test_decoded_frames_are_evicted(pack: HotPack) -> None:
    pack.capacity = 300 * KIB
    pack.views(0, 1, 0)
    pack.views(0, 1, MIB)
    assert pack.views_at_hand(0, 1, 0) is None
    pack.capacity = MIB
    pack.views(0, 1, 0)
    assert pack.views_at_hand(0, 1, 0) is not None
    pack.shrink()
    assert pack.views_at_hand(0, 1, MIB) is not None


def test_a_damaged_pack_is_not_used_any_more(layers: list[Layer], data: bytes) -> None:
    frame = opened(layers, data)[1].frames[0]
    damaged = bytearray(data)
    damaged[frame.offset + frame.stored // 2] ^= 1
    pack = HotPack(lambda: opened(layers, bytes(damaged)), verified=True)
    assert joined(pack.views(1, 10, 8 * KIB)) == TARS[1][8 * KIB : 8 * KIB + 10]
    assert pack.views(0, 10, 0) is None
    assert pack.fault == "hot pack: frame 0 is damaged"
    assert pack.views(1, 10, 8 * KIB) is None
    assert not pack.has(1, 10, 8 * KIB)
    assert pack.views_at_hand(1, 10, 8 * KIB) is None
    assert pack.pieces_at_hand(1, 8 * KIB, 9 * KIB) == []


def test_a_file_that_is_no_pack_is_not_used(layers: list[Layer], data: bytes) -> None:
    for wrong in (b"", data[:-1], data[:1000], bytes(len(data))):
        pack = HotPack(lambda wrong=wrong: opened(layers, wrong), verified=True)  # type: ignore[misc]
        assert pack.views(0, 1, 0) is None
        assert pack.fault is not None
        assert pack.frame(0) is None


def test_a_file_that_cannot_be_read_is_not_used(layers: list[Layer], data: bytes) -> None:
    class Failing(BytesReader):
        def pread(self, size: int, offset: int) -> bytes:
            raise OSError(5, "Input/output error")

    pack = HotPack(lambda: (Failing(data), opened(layers, data)[1]), verified=True)
    assert pack.views(0, 1, 0) is None
    assert pack.fault is not None


def test_what_was_served_is_known_after_a_fault(layers: list[Layer], data: bytes) -> None:
    """So it can be compared with the layers."""
    damaged = bytearray(data)
    damaged[opened(layers, data)[1].frames[1].offset] ^= 1
    pack = HotPack(lambda: opened(layers, bytes(damaged)), verified=False)
    assert pack.frame(0) is not None
    assert pack.frame(1) is None
    assert pack.has_served
    assert pack.table() == opened(layers, data)[1]
    assert pack.file() is None


def test_only_the_first_frames_within_the_bound_are_used(layers: list[Layer], data: bytes) -> None:
    first = opened(layers, data)[1].frames[0]
    size = sum(block.size for block in first.blocks)
    for limit, used in [(size - 1, 0), (size, 1)]:
        pack = HotPack(lambda: opened(layers, data), verified=True, limit=limit)
        assert pack.table() == opened(layers, data)[1]
        assert pack.used == used
        assert (pack.views(0, 10, 0) is None) == (used == 0)
        assert pack.views(0, 10, MIB) is None


# A pack that arrives


@pytest.fixture
def arriving(data: bytes) -> Iterator[ArrivingFile]:
    fd = os.memfd_create("pack")
    file = ArrivingFile(fd, len(data))
    file.patience = 60.0
    yield file
    os.close(fd)


def load_from(layers: list[Layer], file: ArrivingFile) -> HotPack:
    return HotPack(lambda: (file, read_table(file, streams(layers), 64 * MIB)), verified=False, is_arriving=True)


def test_readers_wait_for_the_head(layers: list[Layer], data: bytes, arriving: ArrivingFile) -> None:
    more = threading.Event()

    def stream() -> Iterator[bytes]:
        assert more.wait(60)
        yield data

    pack = load_from(layers, arriving)
    pack.patience = 60.0
    with ThreadPoolExecutor(4) as threads:
        received = threads.submit(arriving.receive, stream)
        threads.submit(pack.table)
        reads = [threads.submit(pack.views, 0, 10, offset) for offset in (0, MIB)]
        assert pack.views_at_hand(0, 10, 0) is None
        assert not pack.is_open()
        more.set()
        assert received.result(60)
        assert [joined(read.result(60)) for read in reads] == [TARS[0][:10], TARS[0][MIB : MIB + 10]]
    assert pack.is_open()


def test_readers_do_without_a_head_that_does_not_arrive(layers: list[Layer], arriving: ArrivingFile) -> None:
    pack = load_from(layers, arriving)
    with ThreadPoolExecutor(1) as threads:
        threads.submit(pack.table)
        pack.patience = 0.1
        assert pack.views(0, 10, 0) is None
        pack.patience = 0.0  # together, all readers wait only once
        assert pack.views(0, 10, 0) is None
        pack.abandon("its head arrives too late")
        arriving.end()
    assert pack.fault == "its head arrives too late"


def test_a_head_that_arrives_too_late_changes_nothing(layers: list[Layer], data: bytes, arriving: ArrivingFile) -> None:
    pack = load_from(layers, arriving)
    pack.abandon("it is too late")
    assert arriving.receive(lambda: iter([data]))
    assert pack.table() is None
    assert pack.views(0, 10, 0) is None


def test_a_reader_waits_for_no_frame_that_arrives_late(layers: list[Layer], data: bytes) -> None:
    """The stream stalls behind the head, and then before the last frame."""
    frames = opened(layers, data)[1].frames
    fd = os.memfd_create("pack")
    arriving = ArrivingFile(fd, len(data))
    arriving.patience = 0.01
    arriving.found(0)
    os.pwrite(fd, data, 0)
    pack = load_from(layers, arriving)
    try:
        arriving.found(frames[0].offset)
        assert pack.table() is not None
        assert pack.views(0, 10, 0) is None
        arriving.patience = 60.0  # nobody waits again, until more has arrived
        assert pack.views(0, 10, 0) is None
        assert pack.views(0, 10, MIB) is None
        assert pack.fault is None
        arriving.found(frames[-1].offset)
        assert joined(pack.views(0, 10, 0)) == TARS[0][:10]
        assert pack.views(0, 10, 2 * MIB - 10) is None
        arriving.found(len(data))
        assert joined(pack.views(0, 10, 2 * MIB - 10)) == TARS[0][2 * MIB - 10 : 2 * MIB]
    finally:
        os.close(fd)


def test_a_pack_that_does_not_arrive_is_not_used() -> None:
    def load() -> tuple[ReaderAt, PackTable]:
        raise OcifsError("the registry is gone")

    pack = HotPack(load, verified=False)
    assert pack.table() is None
    assert pack.fault == "the registry is gone"
    assert not pack.has(0, 1, 0)
