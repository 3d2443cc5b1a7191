"""Every compression: a pass gives the stream, and each span decodes from its checkpoint to the same bytes."""

import gzip as stdlib_gzip
import io
import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from zlib_ng import zlib_ng

from ocifs.compression import (
    CHUNK,
    MAX_SPAN,
    SPACING,
    Checkpoint,
    Pass,
    evenly,
    gzip,
    inflation,
    plain,
    rapid,
    zng,
    zstd,
)
from ocifs.compression.blocks import BlockPass
from ocifs.compression.gzidx import ends_with, read_gzidx
from ocifs.compression.gzip import GzipPass
from ocifs.compression.rapid import RapidgzipPass
from ocifs.compression.subprocess_pass import SubprocessPass
from ocifs.errors import InvalidImageError, LimitError, OcifsError, UnsupportedError
from ocifs.reader import BytesReader, FileReader
from tests.checkpoints import unpacked


def mixed(size: int, seed: int = 1) -> bytes:
    """Return bytes of which some compress well and some do not."""
    chance = random.Random(seed)
    out = io.BytesIO()
    while out.tell() < size:
        out.write(chance.choice([chance.randbytes(5000), bytes(9000), b"the same words " * 400]))
    return out.getvalue()[:size]


DATA = mixed(3 << 20)


def member(data: bytes, level: int = 6, flags: int = 0, extra: bytes = b"") -> bytes:
    """Return a gzip member; `extra` are the header fields that `flags` announce."""
    deflate = zlib.compressobj(level, zlib.DEFLATED, -15)
    body = deflate.compress(data) + deflate.flush()
    header = b"\x1f\x8b\x08" + bytes([flags]) + bytes(4) + b"\0\xff" + extra
    return header + body + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


def flushed(data: bytes) -> bytes:
    """Return one member with byte-aligned blocks, as `pigz -i` makes it."""
    deflate = zlib.compressobj(6, zlib.DEFLATED, 31)
    pieces = [data[place : place + (128 << 10)] for place in range(0, len(data), 128 << 10)]
    return b"".join(deflate.compress(p) + deflate.flush(zlib.Z_FULL_FLUSH) for p in pieces) + deflate.flush()


def in_members(data: bytes, size: int) -> bytes:
    """Return many members with an extra field, as bgzip makes them."""
    field = struct.pack("<HBBHH", 6, 66, 67, 2, 0)
    return b"".join(member(data[place : place + size], 6, 4, field) for place in range(0, len(data), size))


GZIP = {
    "one member": member(DATA),
    "level 1": member(DATA, 1),
    "level 9": member(DATA, 9),
    "stored": member(DATA, 0),
    "with a name": member(DATA, 6, 8, b"name\0"),
    "two members": member(DATA[: 1 << 20]) + member(DATA[1 << 20 :], 1),
    "empty members": member(b"") + member(DATA) + member(b""),
    "bgzip": in_members(DATA, 65280),
    "flushed": flushed(DATA),
    "padded": member(DATA) + bytes(2000),
    "padded inside": member(DATA[:1000]) + bytes(512) + member(DATA[1000:]),
    "nothing": member(b""),
    "one byte": member(b"x"),
}
EXPECTED = dict.fromkeys(GZIP, DATA) | {"nothing": b"", "one byte": b"x"}


def no_warning(message: str) -> None:
    pytest.fail(f"unexpected warning: {message}")


def check(codec: ModuleType, blob: bytes, reading: Pass, expected: bytes) -> list[Checkpoint]:
    """Go through `blob`, and decode each span on its own."""
    with reading:
        assert b"".join(reading.chunks()) == expected
        points = unpacked(reading)
    assert points[0].start == 0
    assert points[-1].start == len(expected)
    for begin, end in pairwise(points):
        stored = blob[begin.offset : end.offset + (end.bits > 0)]
        size = end.start - begin.start
        assert codec.decode(stored, begin, size).read(size) == expected[begin.start : end.start]
    return points


@pytest.mark.parametrize("name", GZIP)
def test_gzip_by_indexed_gzip(name: str) -> None:
    check(gzip, GZIP[name], GzipPass(BytesReader(GZIP[name]), no_warning), EXPECTED[name])


@pytest.mark.parametrize("name", [name for name in GZIP if not name.startswith("padded")])
@pytest.mark.skipif(not rapid.rapidgzip_is_installed(), reason="rapidgzip is not installed")
def test_gzip_by_rapidgzip(name: str) -> None:
    check(gzip, GZIP[name], RapidgzipPass(BytesReader(GZIP[name])), EXPECTED[name])


@pytest.mark.parametrize("name", [name for name in GZIP if not name.startswith("padded")])
def test_gzip_by_blocks(name: str) -> None:
    check(gzip, GZIP[name], BlockPass(BytesReader(GZIP[name])), EXPECTED[name])


@pytest.mark.parametrize("name", GZIP)
def test_gzip_by_blocks_that_may_warn(name: str) -> None:
    check(gzip, GZIP[name], BlockPass(BytesReader(GZIP[name]), no_warning), EXPECTED[name])


@pytest.mark.parametrize("way", [GzipPass, BlockPass])
@pytest.mark.parametrize("padding", [b"", b"\0", bytes(5000), bytes(300_000)], ids=len)
@pytest.mark.parametrize("garbage", [b"g", b"\x1f", b"\x1f\0", b"garbage", DATA[:300_000]], ids=len)
def test_bytes_after_the_stream_are_left_with_a_warning(
    way: type[GzipPass | BlockPass], padding: bytes, garbage: bytes
) -> None:
    blob = GZIP["two members"] + padding + GZIP["one byte"] + padding + garbage
    warnings: list[str] = []
    check(gzip, blob, way(BytesReader(blob), warnings.append), DATA + b"x")
    assert warnings == [f"{len(garbage)} bytes after the gzip stream are ignored"]


class Counted:
    """zlib-ng, which counts the bytes of input that it is given."""

    error = zlib_ng.error

    def __init__(self) -> None:
        self.given = 0

    def decompressobj(self, **options: Any) -> "Counted.Inflater":
        return Counted.Inflater(self, **options)

    class Inflater:
        def __init__(self, counted: "Counted", **options: Any) -> None:
            self.counted = counted
            self.inflater = zlib_ng.decompressobj(**options)

        def decompress(self, data: bytes, most: int) -> bytes:
            self.counted.given += len(data)
            return self.inflater.decompress(data, most)

        def __getattr__(self, name: str) -> object:
            return getattr(self.inflater, name)


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 3000, DATA[:3000]], ids=["empty", "byte", "run", "mixed"])
@pytest.mark.parametrize("padding", [b"", b"\0"], ids=["dense", "padded"])
def test_a_span_costs_what_it_holds_whatever_its_members(
    content: bytes, padding: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever zlib does not need of its input it copies: all of it, for each member, would be quadratic."""
    counted = Counted()
    monkeypatch.setattr(inflation, "zlib_ng", counted)
    members = 2000
    blob = (member(content) + padding) * members
    first, end = Checkpoint(0, 10), Checkpoint(len(content) * members, len(blob))
    decoder = gzip.decode(blob[10:], first, end.start)
    assert decoder.read(end.start) == content * members
    assert ends_with(BytesReader(blob), first, end)
    assert counted.given < 2 * (2 * len(blob) + 1024 * members)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 400_000), max_size=5), st.integers(0, 9), st.integers(0, 99))
def test_any_cut_into_members(cuts: list[int], level: int, seed: int) -> None:
    data = mixed(400_000, seed)
    places = sorted({0, *cuts, len(data)})
    blob = b"".join(member(data[a:b], level) for a, b in pairwise(places))
    check(gzip, blob, GzipPass(BytesReader(blob), no_warning), data)
    check(gzip, blob, BlockPass(BytesReader(blob)), data)


def test_a_large_blob_is_searched_by_another_process_that_ends(tmp_path: Path) -> None:
    data = random.Random(2).randbytes(6 << 20)
    blob = member(data, 1)
    (tmp_path / "blob").write_bytes(b"before" + blob)
    with (tmp_path / "blob").open("rb") as file:
        reader = FileReader(file.fileno(), 6)
        reading = GzipPass(reader, no_warning)
        points = check(gzip, blob, reading, data)
        assert len(points) > 4
        before = os.listdir("/proc/self/fd")
        with GzipPass(reader, no_warning) as abandoned:
            next(abandoned.chunks())
            process = abandoned.finder.process
            assert process is not None
        assert process.returncode is not None
        assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("share", range(1, 20))
@pytest.mark.parametrize("name", ["one member", "flushed"])
def test_a_gzip_stream_that_is_cut_is_refused(name: str, share: int) -> None:
    blob = GZIP[name][: len(GZIP[name]) * share // 20]
    with GzipPass(BytesReader(blob), no_warning) as reading, pytest.raises(InvalidImageError, match="is truncated"):
        list(reading.chunks())


@pytest.mark.parametrize("name", ["one member", "bgzip"])
def test_a_damaged_byte_never_gives_other_bytes_unnoticed(name: str) -> None:
    chance = random.Random(3)
    for _ in range(30):
        blob = bytearray(GZIP[name])
        blob[chance.randrange(20, len(blob))] ^= 1 << chance.randrange(8)
        with GzipPass(BytesReader(bytes(blob)), lambda message: None) as reading:
            try:
                data = b"".join(reading.chunks())
            except InvalidImageError:
                continue
            assert data == DATA[: len(data)]  # a header field was hit, or the stream seems to end


@pytest.mark.parametrize("place", [-8, -5, -4, -1], ids=["CRC", "CRC end", "ISIZE", "ISIZE end"])
@pytest.mark.parametrize("name", ["one member", "two members"])
def test_a_wrong_trailer_is_refused(name: str, place: int) -> None:
    blob = bytearray(GZIP[name])
    blob[place] ^= 1
    for begin in gzip.passes(BytesReader(bytes(blob)), no_warning):
        with begin() as reading, pytest.raises(InvalidImageError):
            b"".join(reading.chunks())


def test_what_is_not_gzip_is_refused() -> None:
    with pytest.raises(InvalidImageError, match="no gzip member at byte 0"):
        gzip.passes(BytesReader(b"plain"), no_warning)


def test_a_span_that_is_short_is_refused() -> None:
    with pytest.raises(InvalidImageError, match="ends"):
        gzip.decode(GZIP["one member"][10:5000], Checkpoint(0, 10), 1 << 20).read(1 << 20)
    with pytest.raises(InvalidImageError, match="span"):
        gzip.decode(b"\xff" * 100, Checkpoint(0, 0), 10).read(10)


@pytest.mark.parametrize(
    ("rapidgzip", "blocks", "low_memory", "in_subprocess", "in_process"),
    [
        (True, True, False, [RapidgzipPass], BlockPass),
        (True, True, True, [BlockPass], BlockPass),
        (False, True, False, [BlockPass], BlockPass),
        (True, False, False, [RapidgzipPass], GzipPass),
        (False, False, False, [], GzipPass),
    ],
)
def test_which_pass_goes_first(
    rapidgzip: bool,
    blocks: bool,
    low_memory: bool,
    in_subprocess: list[type],
    in_process: type,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rapidgzip only ever runs in another process, since it ends a process that gets no thread or no memory."""
    monkeypatch.setitem(
        sys.modules, "rapidgzip", module_from_spec(ModuleSpec("rapidgzip", None)) if rapidgzip else None
    )
    monkeypatch.setattr(zng, "can_stop_between_blocks", lambda: blocks)
    with (tmp_path / "blob").open("w+b") as file:
        file.write(GZIP["one member"])
        file.truncate(20 << 20)
        for blob, kinds in ((FileReader(file.fileno()), in_subprocess), (BytesReader(GZIP["one member"]), [])):
            *others, last = (way() for way in gzip.passes(blob, no_warning, low_memory=low_memory))
            assert [each.kind for each in others if isinstance(each, SubprocessPass)] == kinds
            assert len(others) == len(kinds)
            assert type(last) is in_process


def gzidx(points: int = 3, size: int = 100) -> bytes:
    """Return a small GZIDX file with windows of 8 bytes."""
    head = struct.pack("<5sBBQQIII", b"GZIDX", 1, 0, 100, size, 10, 8, points)
    table = b"".join(struct.pack("<QQBB", 10 + 20 * n, 30 * n, n % 8, n > 0) for n in range(points))
    return head + table + b"window.." * max(points - 1, 0)


def test_gzidx_is_read() -> None:
    assert list(read_gzidx(io.BytesIO(gzidx()), 100)) == [
        Checkpoint(0, 10, 0, b""),
        Checkpoint(30, 29, 1, b"window.."),
        Checkpoint(60, 49, 2, b"window.."),
        Checkpoint(100, 100),
    ]


def test_damaged_gzidx_is_refused_or_harmless() -> None:
    whole = gzidx()
    damaged = [whole[:end] for end in range(len(whole))]
    damaged += [
        whole[:n] + bytes([whole[n] ^ flip]) + whole[n + 1 :] for n in range(len(whole)) for flip in (1, 0x80, 0xFF)
    ]
    for data in damaged:
        try:
            points = list(read_gzidx(io.BytesIO(data), 100))
        except InvalidImageError:
            continue
        assert all(0 <= point.offset <= 100 for point in points)


@given(st.lists(st.integers(0, SPACING), max_size=50))
def test_evenly_keeps_the_ends_and_leaves_no_long_span(steps: list[int]) -> None:
    starts = [0]
    for step in steps:
        starts.append(starts[-1] + step)
    points = [Checkpoint(start, start) for start in [*starts, starts[-1] + 1]]
    kept = list(evenly(iter(points)))
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert all(end.start - begin.start <= SPACING * 5 // 4 for begin, end in pairwise(kept))


def frames(*parts: bytes, **options: bool) -> bytes:
    """Return a zstd frame for each part."""
    return b"".join(zstandard.ZstdCompressor(level=1, **options).compress(part) for part in parts)  # type: ignore[arg-type]


SKIPPABLE = struct.pack("<II", 0x184D2A53, 5) + b"skip!"
PIECES = [DATA[place : place + CHUNK // 2] for place in range(0, len(DATA), CHUNK // 2)]
ZSTD = {
    "many frames": frames(*PIECES),
    "checksums": frames(*PIECES, write_checksum=True),
    "no sizes": frames(*PIECES, write_content_size=False),
    "skippable frames": SKIPPABLE + frames(*PIECES[:3]) + SKIPPABLE + frames(*PIECES[3:]) + SKIPPABLE,
    "empty frames": frames(b"", *PIECES, b""),
}


@pytest.mark.parametrize("name", ZSTD)
def test_zstd_frames(name: str) -> None:
    reading = zstd.ZstdPass(BytesReader(ZSTD[name]))
    assert reading.restartable
    assert len(check(zstd, ZSTD[name], reading, DATA)) > 2


@pytest.mark.parametrize("write_content_size", [False, True])
def test_one_long_zstd_frame_is_no_place_to_restart_in(write_content_size: bool) -> None:
    for size, restartable in ((MAX_SPAN, True), (MAX_SPAN + 1, False)):
        blob = frames(bytes(size), write_content_size=write_content_size)
        assert zstd.ZstdPass(BytesReader(blob)).restartable == restartable


def huge_window() -> bytes:
    return struct.pack("<I", 0xFD2FB528) + bytes([0, (31 - 10) << 3]) + b"\x01\0\0"


def with_dictionary() -> bytes:
    samples: list[bytes | bytearray | memoryview] = [b"words and words %d" % n * 20 for n in range(500)]
    trained = zstandard.train_dictionary(2000, samples)
    return zstandard.ZstdCompressor(dict_data=trained).compress(samples[0])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (huge_window, LimitError, "window"),
        (with_dictionary, UnsupportedError, "dictionary"),
        (lambda: b"no zstd", InvalidImageError, "no zstd frame"),
        (lambda: ZSTD["many frames"][:-1], InvalidImageError, "is truncated"),
        (lambda: SKIPPABLE[:-1], InvalidImageError, "is truncated"),
        (lambda: frames(DATA)[:20], InvalidImageError, "is truncated"),
    ],
    ids=["window", "dictionary", "magic", "cut", "cut skippable", "cut block"],
)
def test_zstd_that_is_refused(make: Callable[[], bytes], error: type[OcifsError], message: str) -> None:
    with pytest.raises(error, match=message):
        zstd.ZstdPass(BytesReader(make()))


def test_a_damaged_zstd_frame_is_refused() -> None:
    blob = bytearray(frames(DATA, write_checksum=True))
    blob[len(blob) // 2] ^= 0xFF
    reading = zstd.ZstdPass(BytesReader(bytes(blob)))
    with pytest.raises(InvalidImageError, match="damaged"):
        list(reading.chunks())


def test_a_zstd_span_of_another_size_is_refused() -> None:
    for size in (9, 11):
        with pytest.raises(InvalidImageError, match="does not have"):
            zstd.decode(frames(b"0123456789"), Checkpoint(0, 0), size)


@pytest.mark.parametrize("data", [b"", b"x", DATA, DATA[:SPACING]], ids=["nothing", "byte", "3 MiB", "a span"])
def test_plain(data: bytes) -> None:
    check(plain, data, plain.PlainPass(BytesReader(data)), data)


def test_a_short_plain_span_is_refused() -> None:
    with pytest.raises(InvalidImageError, match="holds 3 bytes"):
        plain.decode(b"abc", Checkpoint(0, 0), 4)


@pytest.mark.parametrize("program", [["pigz", "-c"], ["pigz", "-i", "-c"], ["bgzip", "-c"], ["gzip", "-c"]])
def test_what_real_programs_write(program: list[str]) -> None:
    try:
        blob = subprocess.run(program, input=DATA, capture_output=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip(f"{program[0]} is not installed")
    assert stdlib_gzip.decompress(blob) == DATA
    for way in gzip.passes(BytesReader(blob), no_warning):
        check(gzip, blob, way(), DATA)
