"""Who finds the checkpoints: rapidgzip, or indexed_gzip in this process or another; of streams whole or damaged."""

import errno
import os
import random
import signal
import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from ocifs.compression import Checkpoint, Pass, evenly, gzip, rapid, zng
from ocifs.compression.blocks import BlockPass
from ocifs.compression.checkpoint_finder import IndexedGzipFinder
from ocifs.compression.gzip import GzipPass
from ocifs.compression.rapid import RapidgzipPass
from ocifs.errors import InvalidImageError, OcifsError
from ocifs.reader import BytesReader, FileReader, ReaderAt
from tests.checkpoints import unpacked
from tests.faults import refusing

NOISE = random.Random(1).randbytes(300_000)
SMALL = NOISE[:60_000] + bytes(200_000) + NOISE[60_000:90_000]
LARGE = b"".join(random.Random(2).randbytes(600_000) + bytes(100_000) for _ in range(9))

Begin = Callable[[ReaderAt], Pass]
BEGIN: dict[str, Begin] = {"indexed_gzip": lambda blob: GzipPass(blob, lambda message: None)}
if rapid.rapidgzip_is_installed():
    BEGIN["rapidgzip"] = RapidgzipPass
if zng.can_stop_between_blocks():
    BEGIN["blocks"] = BlockPass


def member(data: bytes, strategy: int = zlib.Z_DEFAULT_STRATEGY, **fields: bytes) -> bytes:
    """Return a gzip member, with the header fields `extra`, `name` and `comment` where given."""
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15, 8, strategy)
    body = deflate.compress(data) + deflate.flush()
    flags = sum(flag for flag, field in ((4, "extra"), (8, "name"), (16, "comment")) if field in fields)
    extra = struct.pack("<H", len(fields["extra"])) + fields["extra"] if "extra" in fields else b""
    texts = b"".join(fields[field] + b"\0" for field in ("name", "comment") if field in fields)
    header = b"\x1f\x8b\x08" + bytes([flags]) + bytes(6) + extra + texts
    return header + body + struct.pack("<II", zlib.crc32(data), len(data))


@pytest.fixture
def blob_file(tmp_path: Path) -> Iterator[Callable[[bytes], FileReader]]:
    """Put bytes in a file, between others."""

    def write(data: bytes) -> FileReader:
        path = tmp_path / "blob"
        path.write_bytes(b"another blob" + data + b"and another")
        opened.append(os.open(path, os.O_RDONLY))
        return FileReader(opened[-1], 12, len(data))

    opened: list[int] = []
    yield write
    for fd in opened:
        os.close(fd)


def spans(reading: Pass, blob: bytes) -> bytes:
    """Go through a blob, and return what its spans decode to, each on its own."""
    with reading:
        stream = b"".join(reading.chunks())
        points = unpacked(reading)
    decoded = b"".join(
        gzip.decode(blob[begin.offset : end.offset + (end.bits > 0)], begin, 0).read(end.start - begin.start)
        for begin, end in pairwise(points)
    )
    assert decoded == stream
    return stream


@pytest.mark.parametrize("begin", BEGIN.values(), ids=BEGIN)
@pytest.mark.parametrize("strategy", [zlib.Z_FILTERED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED])
def test_every_strategy_of_deflate(begin: Begin, strategy: int) -> None:
    data = SMALL * 8
    blob = member(data, strategy)
    assert spans(begin(BytesReader(blob)), blob) == data


@pytest.mark.parametrize("begin", BEGIN.values(), ids=BEGIN)
def test_headers_may_be_longer_than_what_is_read_at_once(begin: Begin) -> None:
    blob = member(SMALL, extra=b"e" * 65535, name=b"n" * 200_000, comment=b"c" * 200_000) + member(SMALL)
    assert spans(begin(BytesReader(blob)), blob) == SMALL * 2


@pytest.mark.parametrize("size", [1, 7, 300_000])
@pytest.mark.parametrize("content", [SMALL, b""], ids=["data", "nothing"])
def test_much_garbage_is_left_out_of_the_search(size: int, content: bytes) -> None:
    warnings: list[str] = []
    blob = member(content) + NOISE[:size]
    assert spans(GzipPass(BytesReader(blob), warnings.append), blob) == content
    assert warnings == [f"{size} bytes after the gzip stream are ignored"]


@pytest.mark.skipif("rapidgzip" not in BEGIN, reason="rapidgzip is not installed")
@pytest.mark.parametrize("content", [SMALL, LARGE, b""], ids=["data", "much", "nothing"])
@pytest.mark.parametrize(
    "garbage", [*(b"r" * size for size in range(1, 12)), member(b"")[:10], b"\0r", b"\0" * 9 + b"r"]
)
def test_rapidgzip_passes_over_no_garbage(content: bytes, garbage: bytes) -> None:
    """It does so itself where fewer bytes follow than a header has; then no warning would mention them."""
    blob = member(content) + garbage
    with pytest.raises(InvalidImageError, match="rapidgzip"):
        spans(RapidgzipPass(BytesReader(blob)), blob)


def test_padding_of_any_length_is_no_garbage() -> None:
    blob = member(SMALL) + bytes(3 << 20) + member(SMALL) + bytes(1 << 20)
    assert spans(GzipPass(BytesReader(blob), pytest.fail), blob) == SMALL * 2


@pytest.mark.parametrize("begin", BEGIN.values(), ids=BEGIN)
@pytest.mark.parametrize("blob", [member(SMALL), member(b""), member(SMALL) * 2], ids=["data", "nothing", "two"])
def test_a_cut_or_damaged_stream_ends_in_one_kind_of_error(begin: Begin, blob: bytes) -> None:
    """Or in bytes that lead up to the cut: those, the diff ID refuses."""
    chance = random.Random(3)
    cuts = [*range(2, 40), *range(len(blob) - 20, len(blob)), *(chance.randrange(2, len(blob)) for _ in range(30))]
    damaged = [blob[: max(cut, 2)] for cut in cuts]
    for _ in range(60):
        place = chance.randrange(2, len(blob))
        damaged.append(blob[:place] + bytes([blob[place] ^ 1 << chance.randrange(8)]) + blob[place + 1 :])
    for data in damaged:
        try:
            stream = spans(begin(BytesReader(data)), data)
        except InvalidImageError:
            continue
        assert (SMALL * 2).startswith(stream)


def fds() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


def test_another_process_searches_what_is_large(blob_file: Callable[[bytes], FileReader]) -> None:
    blob = member(LARGE[: 3 << 20]) + member(LARGE[3 << 20 :])
    reader = blob_file(blob)
    before = fds()
    reading = GzipPass(reader, pytest.fail)
    with reading:
        process = reading.finder.process
        assert process is not None
        assert b"".join(reading.chunks()) == LARGE
        there = list(reading.checkpoints())
    assert fds() == before
    assert process.returncode == 0
    with GzipPass(BytesReader(blob), pytest.fail) as here:
        assert b"".join(here.chunks()) == LARGE
        assert list(here.checkpoints()) == there
        assert here.finder.process is None


def test_the_process_is_not_heard_where_garbage_follows(blob_file: Callable[[bytes], FileReader]) -> None:
    blob = member(LARGE) + NOISE
    before = fds()
    warnings: list[str] = []
    assert spans(GzipPass(blob_file(blob), warnings.append), blob) == LARGE
    assert len(warnings) == 1
    assert len(fds()) == len(before) + 1  # the blob


def test_what_the_process_complains_of_is_one_line(blob_file: Callable[[bytes], FileReader]) -> None:
    blob = bytearray(member(LARGE))
    blob[len(blob) // 2] ^= 0xFF
    finder = IndexedGzipFinder(blob_file(bytes(blob)))
    before = fds()
    finder.start()
    with pytest.raises(InvalidImageError, match=r"^no checkpoints found: .*$"):
        list(finder.checkpoints(len(blob)))
    finder.stop()
    assert fds() == before


def test_a_process_that_is_killed_is_an_error(blob_file: Callable[[bytes], FileReader]) -> None:
    blob = member(LARGE)
    finder = IndexedGzipFinder(blob_file(blob))
    finder.start()
    assert finder.process is not None
    finder.process.kill()
    with pytest.raises(OcifsError, match="signal 9"):
        list(finder.checkpoints(len(blob)))
    finder.stop()


def test_where_no_process_can_be_had_this_one_does_it(blob_file: Callable[[bytes], FileReader]) -> None:
    blob = member(LARGE)
    reader = blob_file(blob)
    before = fds()
    assert refusing("start", errno.EAGAIN, lambda: spans(GzipPass(reader, pytest.fail), blob)) == LARGE
    assert fds() == before


def children() -> str:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


def test_a_pass_may_be_left_at_any_point(blob_file: Callable[[bytes], FileReader]) -> None:
    blob = member(LARGE)
    reader = blob_file(blob)
    before = fds(), children()
    for begin in BEGIN.values():
        with begin(reader):
            pass
        with begin(reader) as reading:
            next(reading.chunks())
        with begin(reader) as reading:
            list(reading.chunks())
        with begin(reader) as reading:
            list(reading.chunks())
            next(reading.checkpoints())
    assert (fds(), children()) == before


@pytest.mark.skipif("rapidgzip" not in BEGIN, reason="rapidgzip is not installed")
def test_what_rapidgzip_finds_on_its_way_is_what_comes_out() -> None:
    blob = member(b"".join(random.Random(3).randbytes(700_000) + bytes(600_000) for _ in range(40)))
    told: list[list[Checkpoint]] = []
    with RapidgzipPass(BytesReader(blob)) as reading:
        for _ in reading.chunks():
            if reading.found and (not told or reading.found is not told[-1]):
                told.append(reading.found)
        points = [point._replace(window=b"") for point in reading.checkpoints()]
    assert told
    for found in told:
        kept = list(evenly(iter(found)))[:-1]
        assert len(kept) > 1
        assert kept == points[: len(kept)]


def test_a_search_that_is_stopped_is_given_up(blob_file: Callable[[bytes], FileReader]) -> None:
    blob = blob_file(member(LARGE))
    finder = IndexedGzipFinder(blob, most_stopped=0.3)
    finder.start()
    assert finder.process is not None
    finder.process.send_signal(signal.SIGSTOP)
    with pytest.raises(OcifsError, match="the search for checkpoints was stopped: try again"):
        list(finder.checkpoints(blob.size))
    finder.stop()
