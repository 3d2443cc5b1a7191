"""A LayerIndex whose checksum was right by chance or by design: whatever it claims, it ends in one kind of error."""

import gzip
import random
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec
import pytest
import zstandard

from ocifs.compression import MAX_SPAN
from ocifs.errors import InvalidImageError, OcifsError
from ocifs.layer.build import LayerBlob, open_layer_index
from ocifs.layer.index import LayerIndex, open_index
from ocifs.layer.index_format import Summary, TocWriter, encode_tail, pack_u64
from ocifs.layer.layer import Layer
from ocifs.layer.span_cache import SpanCache
from ocifs.limits import Limits
from ocifs.reader import BytesReader, FileReader
from ocifs.spec.digest import DiffID, Digest
from ocifs.store import Store
from ocifs.toc import Entry
from tests import images, tars
from tests.depth import depth

TEXT = b" ".join(random.Random(1).choices([b"word%d" % number for number in range(2000)], k=300_000))
TAR = tars.tar([tars.file(b"text", TEXT), tars.file(b"name", b"content", mtime=5)])
BLOB = gzip.compress(TAR, 1, mtime=0)
HUGE = bytes.fromhex("28b52ffde0") + struct.pack("<Q", 1 << 50) + b"\1\0\0"
"""A zstd frame that claims a petabyte."""


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileReader]:
    path = tmp_path_factory.mktemp("blob") / "blob"
    path.write_bytes(BLOB)
    with path.open("rb") as file:
        yield FileReader(file.fileno())


@pytest.fixture(scope="module")
def stored(blob: FileReader) -> bytes:
    """The bytes of a real LayerIndex."""
    layer = LayerBlob(Digest(images.digest(BLOB)), DiffID(Digest(images.digest(TAR))), blob)
    index = open_layer_index(layer, Store(None), Limits(), pytest.fail, lambda layer, done, total: None)
    with open(index.file.fd, "rb") as file:
        return file.read(index.file.size)


def opened(data: bytes) -> LayerIndex:
    return open_index(cast("FileReader", BytesReader(data)))


def read_all(data: bytes, blob: FileReader) -> tuple[bytes, list[Entry]]:
    """Do with an index all that is ever done with one; return the tar stream and its entries."""
    index = opened(data)
    layer = Layer(0, index, blob, SpanCache())
    spans = [each for each in range(index.span_count) if index.starts[each] < 4 << 20]
    stream = b"".join(layer.pread(layer.span_size(span), index.starts[span]) for span in spans)
    return stream, index.toc()


def sections(data: bytes) -> tuple[bytes, bytes, Summary]:
    """Return data section, TOC and summary of an index."""
    data_size, toc_size, summary_size = struct.unpack("<QQQ", data[-24:])
    summary = data[data_size + toc_size : data_size + toc_size + summary_size]
    return data[:data_size], data[data_size : data_size + toc_size], msgspec.msgpack.decode(summary, type=Summary)


def joined(data: bytes, toc: bytes, summary: Summary) -> bytes:
    packed = msgspec.msgpack.encode(summary)
    return data + toc + packed + struct.pack("<QQQ", len(data), len(toc), len(packed))


def test_it_holds_what_was_put_in(stored: bytes, blob: FileReader) -> None:
    stream, toc = read_all(stored, blob)
    assert stream == TAR
    assert [(entry.path, entry.size, entry.mtime_ns) for entry in toc] == [
        (b"text", len(TEXT), 0),
        (b"name", 7, 5 * 10**9),
    ]
    summary = opened(stored).summary
    assert (summary.blob_digest, summary.diff_id) == (images.digest(BLOB), images.digest(TAR))
    assert (summary.blob_size, summary.size, summary.entries) == (len(BLOB), len(TAR), 2)


def test_what_is_encoded_is_decoded() -> None:
    entry = Entry(
        0, b"p\xffath", 0o7777, 1, 2, -3, 4, 512, 8, b"", (1, 2), {b"user.\xff": b"\0"}, ((0, 1), (3, 1))
    )  # fmt: skip
    summary = Summary(
        blob_digest=images.digest(b""), blob_size=0, diff_id=images.digest(b""), size=0, codec="tar", reframed=False,
        entries=1, starts=pack_u64([0, 0]), offsets=pack_u64([0, 0]), bits=bytes(2), windows=b"", digests=bytes(32),
        warnings=("odd",),
    )  # fmt: skip
    index = opened(encode_tail([entry], summary, 0))
    assert (index.summary, index.toc(), index.size, index.span_count) == (summary, [entry], 0, 1)


class Changing(BytesReader):
    """A file that changes while it is open."""

    data: bytearray  # type: ignore[assignment]

    def pread(self, size: int, offset: int) -> bytes:
        return bytes(super().pread(size, offset))


@pytest.mark.parametrize("section", ["windows", "TOC"])
def test_what_changes_after_it_was_opened_is_right_or_refused(stored: bytes, blob: FileReader, section: str) -> None:
    data, toc, _ = sections(stored)
    begin, end = (0, len(data)) if section == "windows" else (len(data), len(data) + len(toc))
    places = random.Random(section).sample(range(begin, end), min(end - begin, depth(300, 1_000_000)))
    file = Changing(bytearray(stored))  # type: ignore[arg-type]
    index = open_index(cast("FileReader", file))
    expected, windows = index.toc(), array("Q", index.summary.windows)
    refused = 0
    for place in places:
        file.data[place] ^= 1 << place % 8
        try:
            if section == "TOC":
                assert index.toc() == expected
            else:
                number = bisect_right(windows, place) - 1
                assert Layer(0, index, blob, SpanCache()).decode(number) == TAR[slice(*index.starts[number:][:2])]
        except InvalidImageError:
            refused += 1
        file.data[place] ^= 1 << place % 8
    assert refused > 0.9 * len(places)


def test_another_process_opens_the_same_or_none(stored: bytes) -> None:
    checksum = opened(stored).checksum
    assert open_index(cast("FileReader", BytesReader(stored)), checksum).checksum == checksum
    data, toc, summary = sections(stored)
    changed = joined(data, toc, msgspec.structs.replace(summary, starts=pack_u64([0, 512, *opened(stored).starts[2:]])))
    assert opened(changed).size == len(TAR)  # nothing else would find that
    with pytest.raises(InvalidImageError, match="changed since it was checked"):
        open_index(cast("FileReader", BytesReader(changed)), checksum)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65_535, 65_536])
def test_a_toc_is_written_entry_by_entry(count: int) -> None:
    entries = [Entry(0, b"%d" % number, 0o644, 0, 0, number) for number in range(count)]
    writer = TocWriter()
    for entry in entries:
        writer.add(entry)
    assert writer.count == count
    packed = writer.packed()
    assert zstandard.frame_content_size(packed) == len(msgspec.msgpack.encode(entries))
    assert zstandard.decompress(packed) == msgspec.msgpack.encode(entries)


def test_entries_one_by_one_are_the_toc(stored: bytes) -> None:
    index = opened(stored)
    assert list(index.entries()) == index.toc()


@pytest.mark.parametrize("entries", [0, 1, 3])
def test_a_summary_that_counts_other_entries_is_refused(stored: bytes, entries: int) -> None:
    """Limits look at that number before the entries are decoded."""
    data, toc, summary = sections(stored)
    index = opened(joined(data, toc, msgspec.structs.replace(summary, entries=entries)))
    with pytest.raises(InvalidImageError, match=f"layer index: 2 entries, not {entries}"):
        next(index.entries())


def test_every_cut_is_refused(stored: bytes, blob: FileReader) -> None:
    data, _, _ = sections(stored)
    for end in [*range(0, len(stored), 997), *range(len(data), len(stored))]:
        with pytest.raises(InvalidImageError, match="layer index"):
            read_all(stored[:end], blob)


@pytest.mark.parametrize("count", [1, 3, 30])
def test_damage_anywhere_ends_in_one_kind_of_error(stored: bytes, blob: FileReader, count: int) -> None:
    chance = random.Random(count)
    tail = len(sections(stored)[0])  # most of an index is windows; what follows them is hit as often as they are
    refused = 0
    for start in [0, tail] * 100:
        damaged = bytearray(stored)
        for _ in range(count):
            damaged[chance.randrange(start, len(stored))] ^= 1 << chance.randrange(8)
        try:
            read_all(bytes(damaged), blob)
        except OcifsError:
            refused += 1
    assert refused > 100


def test_a_damaged_window_gives_no_other_bytes(stored: bytes, blob: FileReader) -> None:
    """No digest is of the windows: their own checksums are what protects."""
    chance = random.Random(5)
    tail = len(sections(stored)[0])
    assert tail > 1000
    for _ in range(100):
        damaged = bytearray(stored)
        damaged[chance.randrange(tail)] ^= 1 << chance.randrange(8)
        try:
            stream, _ = read_all(bytes(damaged), blob)
        except InvalidImageError:
            continue
        assert stream == TAR


@pytest.mark.parametrize(
    "changes",
    [
        {"starts": pack_u64([0, 1 << 60]), "size": 1 << 60},
        {"starts": pack_u64([0, MAX_SPAN + 1]), "size": MAX_SPAN + 1},
        {"size": -1},
        {"size": (1 << 64) - 1},
        {"blob_size": 0},
        {"starts": pack_u64([0])},
        {"starts": b""},
        {"starts": pack_u64([0, 1]) + b"1"},
        {"starts": b"1"},
        {"digests": b""},
        {"diff_id": b"\xff"},
        {"warnings": "no tuple"},
    ],
    ids=str,
)
def test_columns_that_cannot_be_are_refused(stored: bytes, changes: dict[str, object]) -> None:
    data, toc, summary = sections(stored)
    one_span = {"offsets": pack_u64([0, 10]), "bits": bytes(2), "windows": b"", "digests": bytes(32)}
    with pytest.raises(InvalidImageError, match="layer index"):
        opened(joined(data, toc, msgspec.structs.replace(summary, **(one_span | changes))))


def test_a_span_may_be_as_long_as_they_get(stored: bytes) -> None:
    data, toc, summary = sections(stored)
    whole = msgspec.structs.replace(
        summary, size=MAX_SPAN, starts=pack_u64([0, MAX_SPAN]), offsets=pack_u64([0, 10]), bits=bytes(2), windows=b"",
        digests=bytes(32),
    )  # fmt: skip
    assert opened(joined(data, toc, whole)).span_count == 1


@pytest.mark.parametrize(
    "packed",
    [
        HUGE,
        b"",
        b"no zstd",
        zstandard.ZstdCompressor(write_content_size=False).compress(b"\x90"),
        zstandard.compress(b""),
        zstandard.compress(b"\x91\xff"),
        zstandard.compress(b"\xdd\xff\xff\xff\xff"),
        zstandard.compress(b"\x91" * 100_000),
        zstandard.compress(msgspec.msgpack.encode([[9, "text", 0, 0, 0, 0]])),
        zstandard.compress(msgspec.msgpack.encode([[0, b"few"]])),
    ],
    ids=["huge", "nothing", "other", "unsized", "empty", "bad", "long", "deep", "text", "short"],
)
def test_a_toc_that_is_none_is_refused(stored: bytes, packed: bytes) -> None:
    data, _, summary = sections(stored)
    index = opened(joined(data, packed, summary))
    with pytest.raises(InvalidImageError, match="layer index"):
        index.toc()
    with pytest.raises(InvalidImageError, match="layer index"):
        list(index.entries())


def test_what_is_passed_over_may_not_be_deep(stored: bytes) -> None:
    data, _, summary = sections(stored)
    deep = zstandard.compress(b"\x91\x93\x00\xc4\x01p" + b"\x91" * 5_000_000 + b"\x90")  # for the stack, as of 3.14
    index = opened(joined(data, deep, summary))
    with pytest.raises(InvalidImageError, match="layer index"):
        index.paths()


@pytest.mark.parametrize("window", [HUGE, b"junk", zstandard.compress(bytes(40_000))], ids=["huge", "junk", "long"])
def test_a_window_that_is_none_is_refused(stored: bytes, blob: FileReader, window: bytes) -> None:
    _, toc, summary = sections(stored)
    spans = opened(stored).span_count
    places = [0] + [len(window) * (span > 1) for span in range(1, spans + 1)]  # that of the second span alone
    index = opened(joined(window, toc, msgspec.structs.replace(summary, windows=pack_u64(places))))
    with pytest.raises(InvalidImageError, match="window of span 1"):
        Layer(0, index, blob, SpanCache()).pread(1, index.starts[1])


def test_the_digest_of_another_span_is_not_taken(stored: bytes, blob: FileReader) -> None:
    data, toc, summary = sections(stored)
    swapped = summary.digests[32:64] + summary.digests[:32] + summary.digests[64:]
    layer = Layer(
        0, opened(joined(data, toc, msgspec.structs.replace(summary, digests=swapped))), blob, SpanCache()
    )  # fmt: skip
    with pytest.raises(InvalidImageError, match="changed or damaged"):
        layer.pread(1, 0)


def test_an_index_of_another_blob_reads_nothing(stored: bytes, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(TAR)
    with (tmp_path / "other").open("rb") as file, pytest.raises(InvalidImageError, match=images.digest(BLOB)):
        Layer(0, opened(stored), FileReader(file.fileno()), SpanCache()).pread(1, 0)
