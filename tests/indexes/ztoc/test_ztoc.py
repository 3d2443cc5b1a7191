"""zTOCs: an independent decoder reads ours, and ocifs reads those of an independent encoder."""

import gzip
import io
import random
import struct
import tarfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocifs.errors import InvalidImageError, LimitError, OcifsError, UnsupportedError
from ocifs.indexes.ztoc.flatbuffer import Buffer
from ocifs.indexes.ztoc.read import Ztoc, read_ztoc, size_of_gzip, write_index
from ocifs.indexes.ztoc.write import write_ztoc
from ocifs.layer.build import LayerBlob, open_layer_index
from ocifs.layer.index import LayerIndex, open_index
from ocifs.layer.layer import Layer
from ocifs.layer.span_cache import SpanCache
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.reader import BytesReader, FileReader
from ocifs.sources.resolve import ImageLayer
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import DiffID, Digest
from ocifs.store import Kind, Store
from ocifs.toc import ReaderForward, scan
from tests import tars
from tests.depth import depth
from tests.indexes.ztoc import independent

RANDOM = random.Random(8)
WORDS = [RANDOM.randbytes(6) for _ in range(600)]


def text(size: int) -> bytes:
    """Return bytes that compress, and refer back as far as they can."""
    return b"".join(RANDOM.choices(WORDS, k=size // 6 + 1))[:size]


TAR = tars.tar(
    [
        tars.directory(b"./", 0o1777, mtime=1_700_000_000),
        tars.directory(b"etc/"),
        tars.file(b"etc/motd", b"hello\n", uid=1000, gid=7, mode=0o4755, mtime=1_700_000_001),
        tars.file(b"empty"),
        tars.pax({b"mtime": b"1700000002.123456789", b"SCHILY.xattr.user.a": b"one=two"})
        + tars.file(b"x", text(700_000)),
        tars.symlink(b"link", b"etc/motd"),
        tars.hardlink(b"hard", b"etc/motd"),
        tars.header(b"null", flag=b"3", major=1, minor=3, mode=0o666),
        tars.header(b"disk", flag=b"4", major=8, minor=1),
        tars.header(b"pipe", flag=b"6"),
        tars.long_name(b"n" * 150) + tars.file(b"n", text(2_000_000)),
        tars.pax({b"path": b"p" * 140 + b"/"}) + tars.directory(b"p"),
        tars.pax({b"path": b"q" * 140}) + tars.file(b"q", text(6_000_000)),
        tars.file(b"\xff\xfe", b"no UTF-8"),
        tars.file(b"last", text(300_000)),
    ]
)  # fmt: skip
ZEROS = tars.tar([tars.file(b"before", text(1_200_000)), tars.file(b"zeros", bytes(9 << 20)), tars.file(b"after")])
"""Its spans begin behind zeros, and refer back to them."""
PADDED = TAR + bytes(-len(TAR) % 10240)


def named(tar: bytes) -> bytes:
    """Return a gzip blob whose header has a name, and so is longer than ten bytes."""
    out = io.BytesIO()
    with gzip.GzipFile("layer.tar", "wb", 1, out, 0) as file:
        file.write(tar)
    return out.getvalue()


BLOBS: dict[str, tuple[bytes, bytes]] = {
    "gzip": (gzip.compress(TAR, 1, mtime=0), TAR),
    "gzip, a name in its header": (named(TAR), TAR),
    "gzip, padded": (gzip.compress(PADDED, 1, mtime=0), PADDED),
    "tar": (TAR, TAR),
    "tar, padded": (PADDED, PADDED),
    "gzip, small": (gzip.compress(tars.tar([tars.file(b"a", b"b")])), tars.tar([tars.file(b"a", b"b")])),
    "gzip, of zeros": (gzip.compress(ZEROS, 1, mtime=0), ZEROS),
    "gzip, no entries": (gzip.compress(tars.tar([])), tars.tar([])),
}


@cache
def layer_of(blob: bytes, tar: bytes) -> Layer:
    """Return a layer, indexed by ocifs."""
    of = LayerBlob(Digest.of(blob), DiffID(Digest.of(tar)), BytesReader(blob))
    index = open_layer_index(of, Store(None), DEFAULT_LIMITS, lambda message: None, lambda *_: None)
    return Layer(0, index, cast("FileReader", BytesReader(blob)), SpanCache(1 << 20))


def converted(ztoc: bytes, blob: bytes, tar: bytes) -> Layer:
    """Return a layer, with the index that a zTOC gives."""
    read = read_ztoc(ztoc, DEFAULT_LIMITS)
    size = size_of_gzip(read, blob[-4:]) if read.codec == "gzip" else read.size
    return Layer(0, index_from(read, blob, tar, size), cast("FileReader", BytesReader(blob)), SpanCache(1 << 20))


def index_from(read: Ztoc, blob: bytes, tar: bytes, size: int) -> LayerIndex:
    compression: Any = "tar" if blob == tar else "gzip"
    descriptor = Descriptor(media_type="x", digest=Digest.of(blob), size=len(blob))
    of = ImageLayer(descriptor, DiffID(Digest.of(tar)), compression)
    return open_index(Store(None).get(Kind("x", 1), "y", lambda out: write_index(read, of, size, out)))


@pytest.mark.parametrize("name", BLOBS)
def test_an_independent_decoder_reads_what_ocifs_writes(name: str) -> None:
    blob, tar = BLOBS[name]
    data = write_ztoc(layer_of(blob, tar), "ocifs").data
    ztoc = independent.decode(data)
    assert (ztoc["version"], ztoc["tool"]) == (b"0.9", b"ocifs")
    assert (ztoc["blob_size"], ztoc["size"]) == (len(blob), len(tar))
    assert ztoc["max_span_id"] == len(ztoc["digests"]) - 1 == len(independent.spans_of(ztoc)) - 1
    assert b"".join(independent.span(blob, ztoc, n) for n in range(len(ztoc["digests"]))) == tar
    expected = independent.entries_of(tar)
    for entry in expected:
        entry["xattrs"] = {k: v for k, v in entry["xattrs"].items() if k.startswith(b"SCHILY.xattr.")}
    assert ztoc["entries"] == expected
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for entry, member in zip(ztoc["entries"], archive, strict=True):
            if member.isreg():
                file = archive.extractfile(member)
                assert file is not None
                assert independent.read_file(blob, ztoc, entry) == file.read()


@pytest.mark.parametrize("name", BLOBS)
def test_headers_begin_where_the_entry_before_ends(name: str) -> None:
    """So does the snapshotter find them, to hold them against what the zTOC says."""
    blob, tar = BLOBS[name]
    header = 0
    for entry in independent.decode(write_ztoc(layer_of(blob, tar), "x").data)["entries"]:
        with tarfile.open(fileobj=io.BytesIO(tar[header:]), errors="surrogateescape") as archive:
            first = archive.next()
            assert first is not None
            assert first.name.encode("utf-8", "surrogateescape") == entry["name"].rstrip(b"/")
        assert header < entry["offset"]
        header = -(-(entry["offset"] + entry["size"]) // 512) * 512


@pytest.mark.parametrize("name", BLOBS)
def test_spans_are_of_the_snapshotters_length(name: str) -> None:
    blob, tar = BLOBS[name]
    ztoc = independent.decode(write_ztoc(layer_of(blob, tar), "x").data)
    sizes = [end - start for start, end in independent.spans_of(ztoc)]
    assert max(sizes) <= 5 << 20
    assert len(sizes) <= 1 + len(tar) // (2 << 20)


@pytest.mark.parametrize("spacing", [1 << 20, 4 << 20])
@pytest.mark.parametrize("name", BLOBS)
def test_what_others_write_is_read(name: str, spacing: int) -> None:
    blob, tar = BLOBS[name]
    layer = converted(independent.write(blob, tar, spacing=spacing), blob, tar)
    assert layer.index.toc() == scan(ReaderForward(BytesReader(tar)), warn=print)
    assert layer.pread(len(tar), 0) == tar
    assert layer.pread(1000, len(tar) // 2) == tar[len(tar) // 2 :][:1000]


def test_the_first_version_leaves_the_first_checkpoint_out() -> None:
    blob, tar = BLOBS["gzip"]
    ours = converted(independent.write(blob, tar, first_version=True), blob, tar)
    assert ours.index.stored_range(0)[0] == 10
    assert ours.pread(len(tar), 0) == tar


def test_the_first_version_is_wrong_for_a_longer_header() -> None:
    """It says that the first span begins inside of the header: its bytes are not those of its digest."""
    blob, tar = BLOBS["gzip, a name in its header"]
    layer = converted(independent.write(blob, tar, first_version=True), blob, tar)
    with pytest.raises(InvalidImageError, match="are not what they were"):
        layer.pread(100, 0)
    assert layer.pread(1000, len(tar) - 1000) == tar[-1000:]


@pytest.mark.parametrize("name", ["gzip", "tar"])
def test_there_and_back_again(name: str) -> None:
    blob, tar = BLOBS[name]
    ours = layer_of(blob, tar)
    ztoc = write_ztoc(ours, "x").data
    back = converted(ztoc, blob, tar)
    assert back.index.toc() == ours.index.toc()
    assert write_ztoc(back, "x").data == ztoc


@pytest.mark.parametrize(
    ("mtime", "expected"),
    [
        (b"2023-11-14T22:13:20Z", 1_700_000_000_000_000_000),
        (b"2023-11-14T22:13:20.5Z", 1_700_000_000_500_000_000),
        (b"2023-11-14T22:13:20.000000001Z", 1_700_000_000_000_000_001),
        (b"2023-11-15T07:13:20+09:00", 1_700_000_000_000_000_000),
        (b"2023-11-14T14:43:20-07:30", 1_700_000_000_000_000_000),
        (b"1969-12-31T23:59:59.25Z", -750_000_000),
        (b"0001-01-01T00:00:00Z", -(2**63)),
        (b"9999-12-31T23:59:59Z", 2**63 - 1),
        (b"", None),
        (b"2023-02-30T00:00:00Z", None),
        (b"2023-11-14T24:00:00Z", None),
        (b"2023-11-14 22:13:20Z", None),
        (b"2023-11-14T22:13:20.Z", None),
        (b"2023-11-14T22:13:20", None),
        (b"0000-01-01T00:00:00Z", None),
    ],
)
def test_times(mtime: bytes, expected: int | None) -> None:
    entry = independent.entries_of(TAR)[2] | {"mtime": mtime}
    ztoc = changed(entries=[entry])
    if expected is None:
        with pytest.raises(InvalidImageError, match=r"entry 'etc/motd': invalid time '.*'"):
            read_ztoc(ztoc, DEFAULT_LIMITS)
    else:
        assert read_ztoc(ztoc, DEFAULT_LIMITS).entries[0].mtime_ns == expected


# What cannot be


BLOB, _ = BLOBS["gzip"]
POINTS = independent.gzip_points(BLOB, 1 << 20)


def test_checkpoints_lie_inside_of_bytes() -> None:
    assert len(POINTS) > 5
    assert any(point.bits for point in POINTS)


def changed(**changes: Any) -> bytes:
    return independent.write(BLOB, TAR, points=POINTS, **changes)


def with_entry(**changes: Any) -> bytes:
    """Let the entry etc/motd be another."""
    entries = independent.entries_of(TAR)
    entries[2] |= changes
    return changed(entries=entries)


def with_point(number: int, **changes: Any) -> bytes:
    points = [*POINTS]
    points[number] = points[number]._replace(**changes)
    return independent.write(BLOB, TAR, points=points)


WRONG: list[tuple[Callable[[], bytes], str]] = [
    (lambda: b"", "truncated"),
    (lambda: b"no zTOC at all", "truncated|table|refers|vector"),
    (lambda: changed()[:-9], "truncated|longer than the file"),
    (lambda: changed()[:100], "truncated|longer than the file"),
    (lambda: changed(blob_size=5), "outside of the layer"),
    (lambda: changed(blob_size=-5), "that -5 bytes of the blob"),
    (lambda: changed(size=-1), "are -1 bytes of tar"),
    (lambda: changed(size=1 << 62), "are 4611686018427387904 bytes of tar"),
    (lambda: changed(size=len(TAR) + 1), "more than one gzip member"),
    (lambda: changed(size=len(TAR) - (2 << 20)), "more than one gzip member"),
    (lambda: changed(blob_size=len(BLOB) + 1), "it describes a layer of .* bytes, but the layer has"),
    (lambda: changed(algorithm=7), "compression 7 is unknown"),
    (lambda: changed(algorithm=2), "bytes of checkpoints, for a layer that needs 20"),
    (lambda: changed(max_span_id=0), "digests for 1 span"),
    (lambda: changed(max_span_id=-2), "digests for -1 spans"),
    (lambda: changed(digests=[]), "0 digests for"),
    (lambda: changed(digests=[b"sha256:00"] * len(POINTS)), "malformed sha256 digest"),
    (lambda: changed(digests=[b"sha512:" + b"0" * 128] * len(POINTS)), "spans with sha512 digests"),
    (lambda: changed(checkpoints=b""), "0 bytes of checkpoints"),
    (lambda: changed(checkpoints=bytes(12)), "12 bytes of 0 checkpoints"),
    (lambda: changed(checkpoints=bytes(12 + 32785 * len(POINTS))), "bytes of 0 checkpoints"),
    (lambda: with_point(1, bits=8), "outside of the layer"),
    (lambda: with_point(1, offset=-1), "outside of the layer"),
    (lambda: with_point(1, offset=1 << 40), "outside of the layer"),
    (lambda: with_point(1, start=-1), "outside of the layer"),
    (lambda: with_point(1, start=1 << 40), "more than 8388608|contradict"),
    (lambda: with_point(0, start=1), "contradict each other"),
    (lambda: with_point(2, offset=20), "contradict each other"),
    (lambda: with_point(2, start=0), "more than 8388608|contradict"),
    (lambda: with_entry(type=b"socket"), "entry 'etc/motd': unsupported type 'socket': only files"),
    (lambda: with_entry(offset=-512), "entry 'etc/motd': 6 bytes at -512"),
    (lambda: with_entry(size=-1), "entry 'etc/motd': -1 bytes at"),
    (lambda: with_entry(size=1 << 62), "entry '.*' begins inside the one before, which may be sparse"),
    (lambda: with_entry(offset=0), "entry 'etc/motd' begins inside the one before"),
    (lambda: with_entry(xattrs={b"GNU.sparse.major": b"1"}), "entry 'etc/motd': a sparse file"),
    (lambda: with_entry(xattrs={b"SCHILY.xattr.": b"1"}), "entry 'etc/motd': an extended attribute"),
]


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_what_cannot_be_is_refused(make: Callable[[], bytes], message: str) -> None:
    with pytest.raises(OcifsError, match=message) as caught:
        converted(make(), BLOB, TAR)
    assert str(caught.value).isprintable()


def test_spans_that_are_too_long_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"a span of .* bytes, more than 8388608"):
        converted(independent.write(BLOB, TAR, points=POINTS[:1]), BLOB, TAR)


@pytest.mark.parametrize("spacing", [-1, 0, 512, 65_535])
def test_spans_without_compression_are_not_tiny(spacing: int) -> None:
    count = max(-(-len(TAR) // spacing) if spacing else 0, 1)
    checkpoints = struct.pack("<iqq", 2, spacing, len(TAR))
    ztoc = independent.write(TAR, TAR, checkpoints=checkpoints, max_span_id=count - 1, digests=[b"x"] * count)
    with pytest.raises(InvalidImageError, match=f"{count} spans of {spacing} bytes do not add up to {len(TAR)}"):
        read_ztoc(ztoc, DEFAULT_LIMITS)


def test_more_entries_than_a_layer_may_have_are_refused() -> None:
    with pytest.raises(LimitError, match="15 tar entries"):
        read_ztoc(changed(), Limits(entries=14))


def test_more_pax_records_than_a_header_can_have_are_refused() -> None:
    records = {b"%d" % number: b"" for number in range(300)}
    with pytest.raises(LimitError, match="entry 'etc/motd': 300 pax records"):
        read_ztoc(with_entry(xattrs=records), Limits(extended_header=1400))


def test_sparse_files_show_by_their_size() -> None:
    sparse = tars.pax({b"GNU.sparse.map": b"0,1,4096,1", b"GNU.sparse.numblocks": b"2", b"GNU.sparse.size": b"9000"})
    tar = tars.tar([sparse + tars.file(b"s", b"xy"), tars.file(b"next", b"1")])
    blob = gzip.compress(tar, mtime=0)
    with pytest.raises(UnsupportedError, match=r"SOCI cannot represent sparse files such as .s."):
        write_ztoc(layer_of(blob, tar), "x")
    entries = independent.entries_of(tars.tar([tars.file(b"s", b"xy"), tars.file(b"next", b"1")]))
    entries[0] |= {"size": 9000}  # as GNU's old headers have it, of which nothing else is left in a zTOC
    ztoc = independent.write(blob, tar, entries=entries, size=len(tar))
    with pytest.raises(UnsupportedError, match="entry 'next' begins inside the one before, which may be sparse"):
        read_ztoc(ztoc, DEFAULT_LIMITS)


@pytest.mark.parametrize(
    "blob", [gzip.compress(TAR[:-1024], 1) + gzip.compress(bytes(1024)), gzip.compress(TAR, 1) + b"more"]
)
def test_layers_that_are_no_single_member_are_not_written(blob: bytes) -> None:
    with pytest.raises(UnsupportedError, match="several gzip members, or with bytes after the last one"):
        write_ztoc(layer_of(blob, TAR), "x")


def test_bytes_that_are_shared_too_often() -> None:
    """A million entries with the same long name would be a gigabyte."""
    entry = independent.entries_of(TAR)[2] | {"name": b"n" * 4000}
    whole = bytearray(changed(entries=[entry] * 200))
    buffer = Buffer(bytes(whole))
    vector, count = buffer.vector_at(buffer.root().table(4)._position(0), 4)
    first = buffer.target(vector)
    for number in range(count):
        at = vector + 4 * number
        whole[at : at + 4] = (first - at).to_bytes(4, "little")
    whole += bytes(-len(whole) % 4)
    assert count == 200
    with pytest.raises(UnsupportedError, match="begins inside"):  # few are not too often
        read_ztoc(bytes(whole), DEFAULT_LIMITS)
    buffer = Buffer(changed(entries=[entry]))
    names = (next(buffer.root().table(4).tables(0)).string(0) for _ in range(1 << 20))
    with pytest.raises(InvalidImageError, match="the same bytes over and over"):
        sum(map(len, names))


@given(st.data())
@settings(max_examples=depth(300, 20_000), deadline=None)
def test_whatever_is_changed_there_is_an_error_or_an_index(data: st.DataObject) -> None:
    begin = SMALL_ZTOC
    broken = bytearray(begin)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(begin) - 1))
        new = data.draw(st.binary(min_size=1, max_size=8))
        broken[place : place + len(new)] = new
    with suppress(OcifsError):
        converted(bytes(broken), *SMALL).pread(1 << 20, 0)


SMALL = BLOBS["gzip, small"]
SMALL_ZTOC = independent.write(*SMALL)
