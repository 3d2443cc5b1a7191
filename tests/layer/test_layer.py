"""A layer: indexed once, with everything it promises checked, and read anywhere, every span proven."""

import hashlib
import io
import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Literal, cast

import msgspec
import pytest
import zstandard

from ocifs.compression import Checkpoint, Decoder
from ocifs.errors import InvalidImageError, LimitError, OcifsError
from ocifs.layer.build import LayerBlob, open_layer_index
from ocifs.layer.index import LayerIndex, open_index
from ocifs.layer.index_format import Summary, pack_u64
from ocifs.layer.layer import Layer
from ocifs.layer.span_cache import SpanCache
from ocifs.limits import Limits
from ocifs.reader import BytesReader, FileReader
from ocifs.spec.digest import DiffID, Digest
from ocifs.store import Store
from tests import images, tars

TAR = tars.tar([tars.file(b"random", random.Random(1).randbytes(3 << 20)), tars.file(b"zeros", bytes(6 << 20))])
FRAMES = b"".join(zstandard.compress(TAR[place : place + (1 << 19)]) for place in range(0, len(TAR), 1 << 19))
Compression = Literal["tar", "gzip", "zstd"]
BLOBS: dict[str, tuple[Compression, bytes]] = {
    "tar": ("tar", TAR),
    "gzip": ("gzip", images.Layer(TAR, "gzip").blob),
    "zstd": ("zstd", FRAMES),
    "one frame": ("zstd", zstandard.compress(TAR)),
}


@pytest.fixture
def open_blob(tmp_path: Path) -> Iterator[Callable[[bytes], FileReader]]:
    """Put bytes in a file that can be changed under its reader."""
    opened: list[int] = []

    def open_(data: bytes) -> FileReader:
        path = tmp_path / f"blob{len(opened)}"
        path.write_bytes(data)
        opened.append(os.open(path, os.O_RDONLY))
        return FileReader(opened[-1])

    yield open_
    for fd in opened:
        os.close(fd)


def index_of(
    blob: FileReader,
    compression: Compression,
    *,
    tar: bytes = TAR,
    limits: Limits | None = None,
    store: Store | None = None,
    digest: str | None = None,
    diff_id: str | None = None,
    warnings: list[str] | None = None,
) -> LayerIndex:
    """Index a blob that promises what it holds, or what is given."""
    data = blob.pread(blob.size, 0)
    layer = LayerBlob(Digest(digest or images.digest(data)), DiffID(Digest(diff_id or images.digest(tar))), blob)
    said = [] if warnings is None else warnings
    index = open_layer_index(
        layer, store or Store(None), limits or Limits(), said.append, lambda layer, done, total: None
    )
    assert index.mislabelled(compression) == ()
    return index


@pytest.mark.parametrize("name", BLOBS)
def test_any_part_of_a_layer_can_be_read(name: str, open_blob: Callable[[bytes], FileReader]) -> None:
    compression, data = BLOBS[name]
    blob = open_blob(data)
    index = index_of(blob, compression)
    assert index.summary.reframed == (name == "one frame")
    assert index.span_count > 3
    layer = Layer(0, index, blob, SpanCache(2 << 20))
    chance = random.Random(2)
    places = [start + near for start in index.starts for near in (-1, 0, 1)]
    for offset in places + [chance.randrange(len(TAR)) for _ in range(10)]:
        for size in (0, 1, 4096, 3 << 20):
            if offset >= 0:
                assert layer.pread(size, offset) == TAR[offset : offset + size]
    assert [entry.path for entry in index.toc()] == [b"random", b"zeros"]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_both_algorithms_are_checked(algorithm: str, open_blob: Callable[[bytes], FileReader]) -> None:
    blob = open_blob(TAR)
    index_of(blob, "tar", digest=images.digest(TAR, algorithm), diff_id=images.digest(TAR, algorithm))
    with pytest.raises(InvalidImageError, match="do not match its digest"):
        index_of(blob, "tar", digest=images.digest(b"other", algorithm))
    with pytest.raises(InvalidImageError, match="image config says"):
        index_of(blob, "tar", diff_id=images.digest(b"other", algorithm))


@pytest.mark.parametrize("name", ["gzip", "zstd", "tar"])
def test_a_blob_that_is_cut_is_refused(name: str, open_blob: Callable[[bytes], FileReader]) -> None:
    compression, data = BLOBS[name]
    for share in (0, 1, 5, 9):
        with pytest.raises(InvalidImageError, match=images.digest(data)):
            index_of(open_blob(data[: len(data) * share // 10]), compression, digest=images.digest(data))


@pytest.mark.parametrize(
    ("limits", "message"),
    [(Limits(uncompressed=1 << 20), "inflates to more than"), (Limits(ratio=1, ratio_from=1 << 20), "times its size")],
)
def test_limits(limits: Limits, message: str, open_blob: Callable[[bytes], FileReader]) -> None:
    with pytest.raises(LimitError, match=message):
        index_of(open_blob(BLOBS["gzip"][1]), "gzip", limits=limits)


def test_what_follows_the_archive_is_hashed_but_not_read(open_blob: Callable[[bytes], FileReader]) -> None:
    tar = TAR + tars.file(b"after the end") + b"junk" * 300
    index = index_of(open_blob(tar), "tar", tar=tar)
    assert [entry.path for entry in index.toc()] == [b"random", b"zeros"]
    assert index.size == len(tar)


def test_warnings_are_told_once_and_kept(tmp_path: Path, open_blob: Callable[[bytes], FileReader]) -> None:
    data = images.Layer(TAR).blob + b"garbage"
    told: list[str] = []
    index = index_of(open_blob(data), "gzip", store=Store(tmp_path / "cache"), warnings=told)
    assert told == [f"layer {images.digest(data)}: 7 bytes after the gzip stream are ignored"]
    assert index.summary.warnings == ("7 bytes after the gzip stream are ignored",)


def changed(path: str, offset: int) -> None:
    with Path(path).open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("name", ["tar", "gzip", "zstd"])
def test_a_changed_byte_is_an_error_and_the_rest_stays_readable(
    name: str, open_blob: Callable[[bytes], FileReader]
) -> None:
    compression, data = BLOBS[name]
    blob = open_blob(data)
    index = index_of(blob, compression)
    layer = Layer(0, index, blob, SpanCache())
    changed(os.readlink(f"/proc/self/fd/{blob.fd}"), index.stored_range(1)[0] + 1000)
    with pytest.raises(InvalidImageError, match=images.digest(data)):
        layer.pread(10, index.starts[1] + 5)
    assert layer.pread(100, 0) == TAR[:100]
    assert layer.pread(100, index.starts[2]) == TAR[index.starts[2] : index.starts[2] + 100]


def test_without_the_digest_the_change_would_be_served(
    open_blob: Callable[[bytes], FileReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above detects something: with the check gone, other bytes come out."""
    blob = open_blob(TAR)
    index = index_of(blob, "tar")
    changed(os.readlink(f"/proc/self/fd/{blob.fd}"), 5000)
    data = blob.pread(*reversed(index.stored_range(0)))
    monkeypatch.setattr(LayerIndex, "digest", lambda self, span: hashlib.sha256(data).digest())
    assert Layer(0, index, blob, SpanCache()).pread(1, 5000) != TAR[5000:5001]


def test_at_hand_is_only_what_is_decoded(open_blob: Callable[[bytes], FileReader]) -> None:
    blob = open_blob(TAR)
    index = index_of(blob, "tar")
    layer = Layer(0, index, blob, SpanCache())
    border = index.starts[1]

    def at_hand(size: int, offset: int) -> bytes | None:
        views = layer.views_at_hand(size, offset)
        return None if views is None else b"".join(views)

    assert at_hand(10, border - 5) is None
    layer.decode(0)
    assert at_hand(5, border - 5) == TAR[border - 5 : border]
    assert at_hand(10, border - 5) is None
    layer.decode(1)
    assert at_hand(10, border - 5) == TAR[border - 5 : border + 5]
    assert layer.is_decoded(1)
    assert not layer.is_decoded(2)
    assert layer.is_decoded(index.span_count)


def test_to_say_that_a_span_is_needed_is_allowed_past_the_end(open_blob: Callable[[bytes], FileReader]) -> None:
    blob = open_blob(TAR)
    layer = Layer(0, index_of(blob, "tar"), blob, SpanCache())
    for span in range(layer.index.span_count + 2):
        layer.will_need(span)
    assert layer.pread(len(TAR), 0) == TAR


def summary(**changes: object) -> Summary:
    """Return a summary of two spans of 10 bytes in a blob of 30."""
    whole = Summary(
        blob_digest=images.digest(b"blob"),
        blob_size=30,
        diff_id=images.digest(b"tar"),
        size=20,
        codec="tar",
        reframed=False,
        entries=0,
        starts=pack_u64([0, 10, 20]),
        offsets=pack_u64([0, 15, 30]),
        bits=bytes(3),
        windows=b"",
        digests=bytes(64),
        warnings=(),
    )
    return msgspec.structs.replace(whole, **changes)


def parse(packed: bytes, data: bytes = b"") -> LayerIndex:
    toc = zstandard.compress(msgspec.msgpack.encode([]))
    file = BytesReader(data + toc + packed + struct.pack("<QQQ", len(data), len(toc), len(packed)))
    return open_index(cast("FileReader", file))


@pytest.mark.parametrize(
    "changes",
    [
        {"starts": pack_u64([0, 20])},
        {"starts": pack_u64([1, 10, 20])},
        {"starts": pack_u64([0, 30, 20])},
        {"starts": pack_u64([0, 10, 19])},
        {"starts": b"123"},
        {"offsets": pack_u64([0, 15, 31])},
        {"offsets": pack_u64([0, 31, 30])},
        {"bits": bytes(2)},
        {"bits": bytes([0, 9, 0])},
        {"digests": bytes(63)},
        {"windows": pack_u64([0, 1])},
        {"windows": pack_u64([0, 0, 1])},
        {"windows": pack_u64([1, 0, 0])},
        {"reframed": True},
        {"codec": "lzma"},
        {"size": "20"},
    ],
    ids=str,
)
def test_an_index_that_contradicts_itself_is_refused(changes: dict[str, object]) -> None:
    parse(msgspec.msgpack.encode(summary()))
    with pytest.raises(InvalidImageError, match="layer index"):
        parse(msgspec.msgpack.encode(summary(**changes)))


def test_a_damaged_summary_is_refused_or_harmless() -> None:
    packed = msgspec.msgpack.encode(summary())
    chance = random.Random(4)
    for _ in range(2000):
        damaged = bytearray(packed)
        for _ in range(chance.randrange(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            index = parse(bytes(damaged))
        except OcifsError:
            continue
        for span in range(index.span_count):
            offset, size = index.stored_range(span)
            assert offset + size <= index.summary.blob_size
        assert all(a <= b for a, b in pairwise(index.starts))


def test_a_window_that_is_damaged_is_refused() -> None:
    index = parse(msgspec.msgpack.encode(summary(windows=pack_u64([0, 4, 4]))), b"junk")
    assert index.checkpoint(1) == Checkpoint(10, 15)
    with pytest.raises(InvalidImageError, match="window of span 0"):
        index.checkpoint(0)


def test_who_jumps_about_has_no_more_decoded_than_is_needed(open_blob: Callable[[bytes], FileReader]) -> None:
    blob = open_blob(BLOBS["gzip"][1])
    index = index_of(blob, "gzip")
    layer = Layer(0, index, blob, SpanCache())
    assert layer.pread(10, 0) == TAR[:10]
    assert layer.views_at_hand(10, 0) is not None
    assert layer.views_at_hand(index.starts[1], 0) is None
    assert not layer.is_decoded(0)
    assert layer.pread(10, 300_000) == TAR[300_000:300_010]  # the second time, all of it
    assert layer.is_decoded(0)


@pytest.mark.parametrize("name", BLOBS)
def test_spans_are_decoded_in_one_go(name: str, open_blob: Callable[[bytes], FileReader]) -> None:
    compression, data = BLOBS[name]
    blob = open_blob(data)
    index = index_of(blob, compression)
    for first in range(index.span_count):
        layer = Layer(0, index, blob, SpanCache())
        layer.pread(1, index.starts[min(first + 1, index.span_count - 1)])  # one of them is half decoded already
        layer.decode_ahead(first, index.span_count - 1)
        assert all(layer.is_decoded(span) for span in range(first, index.span_count))
        assert b"".join(layer.decode_run(first, index.span_count - 1)) == TAR[index.starts[first] :]
    assert b"".join(layer.stream()) == TAR


def test_a_span_that_follows_another_needs_no_window(open_blob: Callable[[bytes], FileReader]) -> None:
    blob = open_blob(BLOBS["gzip"][1])
    index = index_of(blob, "gzip")
    size = index.file.size
    windowless = bytearray(index.file.pread(size, 0))
    (data_size,) = struct.unpack("<Q", windowless[-24:-16])
    windowless[:data_size] = bytes(data_size)
    layer = Layer(0, open_index(open_blob(bytes(windowless))), blob, SpanCache())
    with pytest.raises(InvalidImageError, match="window of span 1"):
        layer.decode(1)
    assert layer.pread(len(TAR), 0) == TAR


def test_every_span_that_follows_is_verified(open_blob: Callable[[bytes], FileReader]) -> None:
    blob = open_blob(BLOBS["gzip"][1])
    index = index_of(blob, "gzip")
    layer = Layer(0, index, blob, SpanCache())
    changed(os.readlink(f"/proc/self/fd/{blob.fd}"), index.stored_range(2)[0] + 1000)
    with pytest.raises(InvalidImageError, match="changed or damaged"):
        layer.decode_ahead(0, index.span_count - 1)
    assert layer.is_decoded(1)
    assert not layer.is_decoded(2)


def test_an_index_whose_spans_do_not_continue_each_other_is_refuted(open_blob: Callable[[bytes], FileReader]) -> None:
    """From their checkpoints they are right, but a reader that continues the first one meets hidden bytes."""
    begin, hidden, end = (bytes([letter]) * 5000 for letter in b"AHB")
    deflate = zlib.compressobj(wbits=-15)
    pieces = [deflate.compress(each) + deflate.flush(zlib.Z_FULL_FLUSH) for each in (begin, hidden, end)]
    blob = open_blob(b"".join(pieces))
    offsets = (0, len(pieces[0] + pieces[1]), blob.size)
    packed = msgspec.msgpack.encode(
        Summary(
            blob_digest=images.digest(b""),
            blob_size=blob.size,
            diff_id=images.digest(begin + end),
            size=10000,
            codec="gzip",
            reframed=False,
            entries=0,
            starts=pack_u64((0, 5000, 10000)),
            offsets=pack_u64(offsets),
            bits=bytes(3),
            windows=b"",
            digests=b"".join(
                hashlib.sha256(blob.pread(after - offset, offset)).digest() for offset, after in pairwise(offsets)
            ),
            warnings=(),
        )
    )
    index = open_index(open_blob(packed + struct.pack("<QQQ", 0, 0, len(packed))))
    layer = Layer(0, index, blob, SpanCache())
    assert layer.decode(0) + layer.decode(1) == begin + end
    with pytest.raises(InvalidImageError, match="does not continue"):
        list(layer.stream())


class Broken:
    def read(self, size: int, /) -> bytes:
        raise InvalidImageError("damaged")


class BrokenAtFirst(Layer):
    """A layer whose first span does not decode once."""

    decoders: Iterator[Decoder] = iter([Broken(), io.BytesIO(TAR)])

    def decoder(self, span: int, data: bytes) -> Decoder:
        return next(self.decoders)


def test_a_span_that_does_not_decode_is_not_kept(open_blob: Callable[[bytes], FileReader]) -> None:
    blob = open_blob(TAR)
    layer = BrokenAtFirst(0, index_of(blob, "tar"), blob, SpanCache())
    with pytest.raises(InvalidImageError):
        layer.pread(10, 0)
    assert layer.pread(10, 1) == TAR[1:11]
