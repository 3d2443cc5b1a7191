import io
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocifs.errors import InvalidImageError, LimitError, OcifsError, UnsupportedError
from ocifs.limits import Limits
from ocifs.reader import BytesReader
from ocifs.toc import (
    BLOCK,
    CHARACTER,
    DIRECTORY,
    FIFO,
    HARDLINK,
    REGULAR,
    SYMLINK,
    ChunkReader,
    Entry,
    ReaderForward,
    scan,
)
from tests.tars import (
    GNU,
    V7,
    base256,
    directory,
    file,
    hardlink,
    header,
    long_name,
    padded,
    pax,
    record,
    symlink,
    tar,
)


def toc(data: bytes, limits: Limits | None = None) -> list[Entry]:
    """Scan `data` as a file; a warning fails the test."""
    return scan(ReaderForward(BytesReader(data)), limits=limits or Limits(), warn=pytest.fail)


def one(*blocks: bytes) -> Entry:
    (entry,) = toc(tar(blocks))
    return entry


# Other writers


def member(name: str, **fields: int | float | str | bytes | dict[str, str]) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


PLAIN = [
    member("d/", type=tarfile.DIRTYPE, mode=0o1777, mtime=1),
    member("d/empty", mode=0o4755),
    member("d/one", size=1, uid=0o7777777, gid=100, mtime=0o77777777777),
    member("d/block", size=512),
    member("d/more", size=513),
    member("p" * 90 + "/" + "n" * 60, size=3),
    member("sym", type=tarfile.SYMTYPE, linkname="d/one"),
    member("hard", type=tarfile.LNKTYPE, linkname="d/one"),
    member("char", type=tarfile.CHRTYPE, devmajor=5, devminor=0o3777),
    member("block", type=tarfile.BLKTYPE, devmajor=8, devminor=1),
    member("fifo", type=tarfile.FIFOTYPE),
    member("contiguous", type=tarfile.CONTTYPE, size=700),
]
EXTENDED = [
    member("long/" * 100 + "n" * 200, size=9),
    member("longlink", type=tarfile.SYMTYPE, linkname="t" * 300),
    member("long/" * 40, type=tarfile.DIRTYPE),
    member("owner", uid=2**32 - 2, gid=2**21),
    member("old", mtime=-5),
    member("b\udcffd", size=2),
    member("späť", size=2),
]
TIMES = [
    member("fraction", mtime=1.5),
    member("xattr", pax_headers={"SCHILY.xattr.user.a": "1", "comment": "none"}),
]
KINDS = {
    tarfile.REGTYPE: REGULAR,
    tarfile.CONTTYPE: REGULAR,
    tarfile.LNKTYPE: HARDLINK,
    tarfile.SYMTYPE: SYMLINK,
    tarfile.CHRTYPE: CHARACTER,
    tarfile.BLKTYPE: BLOCK,
    tarfile.DIRTYPE: DIRECTORY,
    tarfile.FIFOTYPE: FIFO,
}


@pytest.mark.parametrize(
    ("form", "members"),
    [
        (tarfile.USTAR_FORMAT, PLAIN),
        (tarfile.GNU_FORMAT, PLAIN + EXTENDED),
        (tarfile.PAX_FORMAT, PLAIN + EXTENDED + TIMES),
    ],
)
def test_same_as_tarfile(form: int, members: list[tarfile.TarInfo]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as writer:
        for info in members:
            writer.addfile(info, io.BytesIO(os.urandom(info.size)) if info.size else None)
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as reader:
        expected = reader.getmembers()
    entries = toc(buffer.getvalue())
    assert len(entries) == len(expected) == len(members)
    for entry, info in zip(entries, expected, strict=True):
        assert entry.kind == KINDS[info.type]
        assert entry.path.rstrip(b"/") == os.fsencode(info.name)
        assert (entry.mode, entry.uid, entry.gid) == (info.mode, info.uid, info.gid)
        assert entry.mtime_ns == int(info.mtime * 10**9)
        assert entry.linkname == os.fsencode(info.linkname)
        assert (entry.size, entry.stored, entry.sparse) == (info.size, info.size, None)
        assert entry.offset == (info.offset_data if entry.kind == REGULAR else 0)
        assert entry.rdev == ((info.devmajor, info.devminor) if entry.kind in (CHARACTER, BLOCK) else (0, 0))
        assert set(entry.xattrs) == ({b"user.a"} if info.name == "xattr" else set())


def expand(data: bytes, entry: Entry) -> bytes:
    content = bytearray(entry.size)
    at = entry.offset
    for offset, length in ((0, entry.size),) if entry.sparse is None else entry.sparse:
        content[offset : offset + length] = data[at : at + length]
        at += length
    assert at == entry.offset + entry.stored
    return bytes(content)


@pytest.mark.parametrize(
    "form",
    [
        ["--format=gnu"],
        ["--format=pax", "--sparse-version=0.0"],
        ["--format=pax", "--sparse-version=0.1"],
        ["--format=pax", "--sparse-version=1.0"],
    ],
    ids=" ".join,
)
def test_sparse_files_of_gnu_tar(form: list[str], tmp_path: Path) -> None:
    contents = {"hole": b"", "start": b"", "many": b"", "dense": b"d" * 5000, "s" * 120: b""}
    for number, name in enumerate(contents):
        with (tmp_path / name).open("wb") as stream:
            for piece in range(60 if name == "many" else number % 3):
                stream.seek((piece + number) * 65536)
                stream.write(b"%d" % piece * (4096 + (piece == 59)))
            stream.truncate(max(stream.tell(), 300_000))
        contents[name] = (tmp_path / name).read_bytes()
    (tmp_path / "dense").write_bytes(b"d" * 5000)
    contents["dense"] = b"d" * 5000
    command = ["tar", "-cSf", "-", *form, *contents]
    data = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout
    entries = toc(data)
    assert {entry.path.decode(): expand(data, entry) for entry in entries} == contents
    assert [entry.sparse is None for entry in entries] == [name == "dense" for name in contents]
    assert entries[2].sparse is not None
    assert len(entries[2].sparse) == 60


# Forms of headers


@pytest.mark.parametrize(
    ("blocks", "path", "kind"),
    [
        ([header(b"n" * 100, prefix=b"p" * 155)], b"p" * 155 + b"/" + b"n" * 100, REGULAR),
        ([header(b"n", prefix=b"p" * 131 + b"1", tail=bytes(8) + b"tar\0")], b"p" * 131 + b"/n", REGULAR),
        ([header(b"n", prefix=b"14000000000\x0014000000001\0", magic=GNU)], b"n", REGULAR),
        ([header(b"n", prefix=base256(-1, 12), magic=GNU)], b"n", REGULAR),
        ([header(b"n", prefix=b"usr/lib", magic=GNU)], b"usr/lib/n", REGULAR),
        ([header(b"n", prefix=b"\xffusr/lib", magic=GNU)], b"n", REGULAR),
        ([header(b"n", prefix=b"junk", magic=V7)], b"n", REGULAR),
        ([header(b"old/", flag=b"\0", magic=V7)], b"old/", DIRECTORY),
        ([header(b"old", flag=b"\0", magic=V7)], b"old", REGULAR),
        ([header(b"new/", flag=b"0")], b"new/", REGULAR),
        ([header(b"name\0junk")], b"name", REGULAR),
        ([header(b"contiguous", flag=b"7")], b"contiguous", REGULAR),
        ([long_name(b"gnu" * 50), header(b"cut")], b"gnu" * 50, REGULAR),
        ([pax({b"path": b"pax"}), header(b"cut", prefix=b"p")], b"pax", REGULAR),
        ([pax({b"path": b""}), header(b"n", prefix=b"p")], b"p/n", REGULAR),
        ([long_name(b"gnu"), pax({b"path": b"pax"}), header(b"cut")], b"gnu", REGULAR),
        ([pax({b"path": b"first"}), pax({b"uid": b"1"}), header(b"n")], b"n", REGULAR),
        ([pax({b"path": b"pax"}), long_name(b""), header(b"cut")], b"pax", REGULAR),
        ([pax({b"path": b"dir/", b"hdrcharset": b"BINARY"}), header(b"cut", flag=b"5")], b"dir/", DIRECTORY),
    ],
)
def test_name(blocks: list[bytes], path: bytes, kind: int) -> None:
    entry = one(*blocks)
    assert (entry.path, entry.kind) == (path, kind)


def test_extended_headers_speak_for_one_entry() -> None:
    data = tar([long_name(b"one"), pax({b"uid": b"1"}), file(b"x"), file(b"two")])
    assert [(entry.path, entry.uid) for entry in toc(data)] == [(b"one", 1), (b"two", 0)]


def test_link_names() -> None:
    assert one(symlink(b"s", b"t" * 100)).linkname == b"t" * 100
    assert one(long_name(b"k" * 200, b"K"), symlink(b"s", b"cut")).linkname == b"k" * 200
    assert one(pax({b"linkpath": b"pax"}), hardlink(b"h", b"cut")).linkname == b"pax"
    assert one(header(b"f", link=b"ignored")).linkname == b""


@pytest.mark.parametrize("make", [hardlink, symlink])
def test_links_have_no_data(make: Callable[..., bytes]) -> None:
    first, second = toc(tar([make(b"l", b"t", size=700), file(b"next")]))
    assert (first.size, first.stored, second.path) == (0, 0, b"next")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000017\0", 15),
        (b"     17 ", 15),
        (b"\0\x00017 \0\0", 15),
        (b"17", 15),
        (b"17\0junk!", 15),
        (b"", 0),
        (b"77777777", 0o77777777),
        (base256(2**31, 8), 2**31),
        (base256(2**32 - 2, 8), 2**32 - 2),
    ],
)
def test_number(field: bytes, value: int) -> None:
    assert one(header(b"f", uid=field)).uid == value


@pytest.mark.parametrize(
    ("blocks", "time"),
    [
        ([header(b"f", mtime=5)], 5 * 10**9),
        ([header(b"f", mtime=base256(-5, 12))], -5 * 10**9),
        ([pax({b"mtime": b"1700000000.123456789"}), header(b"f")], 1700000000123456789),
        ([pax({b"mtime": b"1700000000.1234567899"}), header(b"f")], 1700000000123456789),
        ([pax({b"mtime": b"-1.5"}), header(b"f")], -1_500_000_000),
        ([pax({b"mtime": b"-0.000000001"}), header(b"f")], -1),
        ([pax({b"mtime": b"7."}), header(b"f")], 7 * 10**9),
        ([pax({b"mtime": b"9223372036.854775807"}), header(b"f")], 2**63 - 1),
        ([pax({b"mtime": b""}), header(b"f", mtime=5)], 5 * 10**9),
        ([pax({b"mtime": b"+7.5"}), header(b"f")], 7_500_000_000),
        ([pax({b"mtime": b"0" * 50 + b"7"}), header(b"f")], 7 * 10**9),
    ],
)
def test_mtime(blocks: list[bytes], time: int) -> None:
    assert one(*blocks).mtime_ns == time


@pytest.mark.parametrize(
    ("blocks", "time"),
    [
        ([pax({b"mtime": b"9223372036.854775808"}), header(b"f")], 2**63 - 1),
        ([pax({b"mtime": b"-99999999999999999999"}), header(b"f")], -(2**63)),
        ([header(b"f", mtime=base256(2**70, 12))], 2**63 - 1),
    ],
)
def test_mtime_out_of_range(blocks: list[bytes], time: int) -> None:
    warnings: list[str] = []
    (entry,) = scan(ReaderForward(BytesReader(tar(blocks))), warn=warnings.append)
    assert entry.mtime_ns == time
    assert len(warnings) == 1


EVERY_RECORD = {
    b"path": b"p",
    b"linkpath": b"l",
    b"size": b"9",
    b"uid": b"1",
    b"gid": b"2",
    b"mtime": b"3",
    b"SCHILY.xattr.user.a": b"x",
    b"GNU.sparse.name": b"s",
    b"comment": b"c" * 40,
}


def test_a_global_header_speaks_for_no_entry() -> None:
    """As in containerd and podman: Go's archive/tar applies its records to nothing."""
    data = tar([pax(EVERY_RECORD, b"g"), file(b"f", b"123", uid=7, gid=8, mtime=9), symlink(b"s", b"t")])
    first, second = toc(data)
    assert (first.path, first.size, first.uid, first.gid, first.mtime_ns) == (b"f", 3, 7, 8, 9 * 10**9)
    assert (first.xattrs, first.sparse) == ({}, None)
    assert (second.path, second.linkname) == (b"s", b"t")


def test_the_members_own_header_counts_beside_a_global_one() -> None:
    assert one(pax({b"uid": b"1"}, b"g"), pax({b"uid": b"2"}), file(b"f", uid=3)).uid == 2


@pytest.mark.parametrize("before", [pax({b"path": b"lost", b"uid": b"1"}), long_name(b"lost")])
def test_a_global_header_ends_the_headers_before_it(before: bytes) -> None:
    """Go's archive/tar returns it as an entry of its own, and so forgets what was said of the next."""
    entry = one(before, pax({b"comment": b"c"}, b"g"), file(b"f", uid=3))
    assert (entry.path, entry.uid) == (b"f", 3)


@pytest.mark.parametrize("number", [b"600", b"+600", b"0600", b"0" * 19 + b"600", b"0" * 5000 + b"600"])
def test_pax_numbers(number: bytes) -> None:
    """As Go's strconv.ParseInt reads them: what counts is the value, not the number of digits."""
    data = b"x" * 600
    first, second = toc(tar([pax({b"size": number, b"uid": number}), header(b"f") + padded(data), file(b"next")]))
    assert (first.size, first.uid, second.path) == (600, 600, b"next")


def test_the_largest_pax_numbers() -> None:
    assert one(pax({b"uid": b"4294967294"}), file(b"f")).uid == 2**32 - 2
    entry = one(record_map(size=b"00009223372036854775807", numblocks=b"+1", map=b"000,%024d" % 1))
    assert (entry.size, entry.sparse) == (2**63 - 1, ((0, 1),))


@pytest.mark.parametrize("length", [b"0000000000000000000000000040", b"+40"])
def test_the_length_of_a_pax_record_is_such_a_number(length: bytes) -> None:
    before = length + b" path="
    name = b"p" * (40 - len(before) - 1)
    assert one(pax(before + name + b"\n"), file(b"f")).path == name


def test_a_sparse_map_with_leading_zeros() -> None:
    entry = one(data_map(b"0" * 40 + b"2\n" + b"0" * 30 + b"10\n2\n20\n1\n", b"abc"))
    assert (entry.sparse, entry.stored) == (((10, 2), (20, 1)), 3)


def test_an_empty_name_is_the_root() -> None:
    entry = one(directory(b"", 0o700, uid=5))
    assert (entry.kind, entry.path, entry.mode, entry.uid) == (DIRECTORY, b"", 0o700, 5)


@pytest.mark.parametrize(
    "member", [file(b"", b"data" * 200), symlink(b"", b"t"), hardlink(b"", b"f"), header(b"", flag=b"6")]
)
def test_an_entry_without_a_name_is_skipped(member: bytes) -> None:
    warnings: list[str] = []
    entries = scan(ReaderForward(BytesReader(tar([file(b"f"), member, file(b"g")]))), warn=warnings.append)
    assert [entry.path for entry in entries] == [b"f", b"g"]
    assert warnings == ["tar entry '' at byte 512: it has no name, but only a directory can be the root; skipped"]


@pytest.mark.parametrize("last", [pax({b"path": b"lost"}), long_name(b"lost"), long_name(b"lost", b"K")])
@pytest.mark.parametrize("end", [b"", bytes(512), bytes(1024)])
def test_an_extended_header_at_the_end_is_ignored(last: bytes, end: bytes) -> None:
    warnings: list[str] = []
    (entry,) = scan(ReaderForward(BytesReader(file(b"f") + last + end)), warn=warnings.append)
    assert entry.path == b"f"
    assert warnings == ["the tar stream ends at byte 1536 after an extended header, which is ignored"]


def test_xattrs() -> None:
    records = {
        b"SCHILY.xattr.user.bin": b"\0\n=",
        b"SCHILY.xattr.user.empty": b"",
        b"LIBARCHIVE.xattr.user.b%69n": b"bG9zdA",
        b"LIBARCHIVE.xattr.user.sp%20ace": b"aGk",
        b"LIBARCHIVE.xattr.user.padded": b"aGk=",
    }
    assert one(pax(records), file(b"f")).xattrs == {
        b"user.bin": b"\0\n=",
        b"user.empty": b"",
        b"user.sp ace": b"hi",
        b"user.padded": b"hi",
    }


def test_signed_checksum() -> None:
    block = header(b"n\xff\xfe")
    total = sum(block[:148]) + sum(block[156:]) + 256
    signed = header(b"n\xff\xfe", checksum=b"%06o\0 " % (total - 512))
    assert one(signed).path == b"n\xff\xfe"


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"", 0),
        (bytes(512), 0),
        (bytes(1024), 0),
        (file(b"f", b"x"), 1),
        (file(b"f", b"x") + bytes(512), 1),
        (header(b"f", 1) + b"x", 1),
        (tar([file(b"f")]) + b"junk after the archive", 1),
        (tar([file(b"f")]) + tar([file(b"g")]), 1),
    ],
)
def test_end(data: bytes, count: int) -> None:
    assert len(toc(data)) == count


# Hostile headers


def data_map(text: bytes, data: bytes = b"") -> bytes:
    return pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"1000"}) + file(
        b"f", padded(text) + data
    )


def record_map(**changes: bytes) -> bytes:
    records = {b"map": b"0,1", b"size": b"1000", b"numblocks": b"1"}
    records |= {key.encode(): value for key, value in changes.items()}
    return pax({b"GNU.sparse." + key: value for key, value in records.items()}) + file(b"f", b"x")


def slots(*numbers: int) -> bytes:
    return b"".join(b"%011o\0" % number for number in numbers)


def old_sparse(sparse: bytes, after: bytes = b"", **fields: int | bytes) -> bytes:
    block: dict[str, int | bytes] = {"flag": b"S", "magic": GNU, "realsize": 1000, "sparse": sparse, **fields}
    return header(b"f", 1, **block) + after + padded(b"x")


INVALID = {
    "wrong checksum": [header(b"f", checksum=b"000001\0 ")],
    "wrong checksum in the middle": [file(b"f"), header(b"g", checksum=b"000001\0 ")],
    "checksum not octal": [header(b"f", checksum=b"-12345\0 ")],
    "junk": [b"\xff" * 512],
    "one zero block inside": [file(b"f"), bytes(512), file(b"g")],
    "size -1": [header(b"f", base256(-1, 12))],
    "size -512": [header(b"f", base256(-512, 12)), bytes(512)],
    "size 2**63": [header(b"f", base256(2**63, 12))],
    "size 2**63 - 1": [header(b"f", base256(2**63 - 1, 12))],
    "size 2**40": [header(b"f", base256(2**40, 12))],
    "size not octal": [header(b"f", b"0o17")],
    "size with sign": [header(b"f", b"+17")],
    "size with underscore": [header(b"f", b"1_0")],
    "size with digit 8": [header(b"f", b"18")],
    "size with a gap": [header(b"f", b"1 0")],
    "size of a directory": [header(b"f", base256(-1, 12), flag=b"5")],
    "pax size of 20 digits": [pax({b"size": b"10000000000000000000"}), file(b"f")],
    "pax size with two signs": [pax({b"size": b"+-1"}), file(b"f")],
    "pax size with underscore": [pax({b"size": b"1_0"}), file(b"f")],
    "pax uid negative": [pax({b"uid": b"-1"}), file(b"f")],
    "pax size negative": [pax({b"size": b"-1"}), file(b"f")],
    "pax size 2**63": [pax({b"size": b"9223372036854775808"}), file(b"f")],
    "pax size of many digits": [pax({b"size": b"9" * 5000}), file(b"f")],
    "pax size 2**63 - 1": [pax({b"size": b"9223372036854775807"}), file(b"f")],
    "uid -1": [header(b"f", uid=base256(-1, 8))],
    "uid 2**32 - 1": [header(b"f", uid=base256(2**32 - 1, 8))],
    "gid 2**32 - 1": [pax({b"gid": b"4294967295"}), file(b"f")],
    "pax uid not decimal": [pax({b"uid": b"0x1"}), file(b"f")],
    "mtime nan": [pax({b"mtime": b"nan"}), file(b"f")],
    "mtime 1e9": [pax({b"mtime": b"1e9"}), file(b"f")],
    "mtime of many digits": [pax({b"mtime": b"1" * 9999}), file(b"f")],
    "mtime .5": [pax({b"mtime": b".5"}), file(b"f")],
    "device major": [header(b"f", flag=b"3", major=1 << 12)],
    "device minor": [header(b"f", flag=b"4", minor=base256(-1, 8))],
    "name of 256": [pax({b"path": b"a/" + b"n" * 256}), file(b"f")],
    "path of 4096": [pax({b"path": b"a/" * 2048}), file(b"f")],
    "GNU path of 4096": [long_name(b"a/" * 2048), file(b"f")],
    "NUL in path": [pax({b"path": b"a\0b"}), file(b"f")],
    "NUL in linkpath": [pax({b"linkpath": b"a\0b"}), symlink(b"f", b"t")],
    "symlink to nothing": [symlink(b"f", b"")],
    "hard link to nothing": [hardlink(b"f", b"")],
    "link target of 4096": [long_name(b"t" * 4096, b"K"), symlink(b"f", b"t")],
    "pax record length 0": [pax(b"0 a=b\n"), file(b"f")],
    "pax record length 1": [pax(b"1 a=b\n"), file(b"f")],
    "pax record length short": [pax(b"5 a=b\n"), file(b"f")],
    "pax record length long": [pax(b"7 a=b\n"), file(b"f")],
    "pax record length of many digits": [pax(b"0" * 99 + b"6 a=b\n"), file(b"f")],
    "pax record length negative": [pax(b"-6 a=b\n"), file(b"f")],
    "pax record without length": [pax(b"a=b\n"), file(b"f")],
    "pax record without newline": [pax(b"6 a=bc"), file(b"f")],
    "pax record without equals": [pax(b"6 abc\n"), file(b"f")],
    "pax record without key": [pax(b"5 =b\n"), file(b"f")],
    "pax record followed by NUL": [pax(b"6 a=b\n\0\0"), file(b"f")],
    "global pax record": [pax(b"0 a=b\n", b"g"), file(b"f")],
    "xattr without name": [pax({b"SCHILY.xattr.": b"x"}), file(b"f")],
    "xattr name with NUL": [pax({b"LIBARCHIVE.xattr.a%00": b""}), file(b"f")],
    "xattr name of 256": [pax({b"SCHILY.xattr." + b"n" * 256: b""}), file(b"f")],
    "xattr not base64": [pax({b"LIBARCHIVE.xattr.user.a": b"????"}), file(b"f")],
    "sparse map odd": [record_map(map=b"0,1,2")],
    "sparse map longer than numblocks": [record_map(map=b"0,1,2,0")],
    "sparse map without numblocks": [record_map(numblocks=b"")],
    "sparse map not decimal": [record_map(map=b"0,-1")],
    "sparse piece outside": [record_map(map=b"1000,1")],
    "sparse map more than the data": [record_map(map=b"0,2")],
    "sparse map less than the data": [record_map(map=b"0,0")],
    "sparse pieces overlap": [record_map(map=b"0,1,0,0", numblocks=b"2"), record_map(map=b"5,1,4,0", numblocks=b"2")],
    "sparse size negative": [record_map(size=b"-5")],
    "sparse offsets do not alternate": [
        pax(record(b"GNU.sparse.offset", b"0") + record(b"GNU.sparse.offset", b"0")),
        file(b"f"),
    ],
    "sparse lengths before offsets": [pax(record(b"GNU.sparse.numbytes", b"0")), file(b"f")],
    "sparse 1.0 without a map": [data_map(b"")],
    "sparse 1.0 with an endless number": [data_map(b"1" * 2000)],
    "sparse 1.0 cut short": [data_map(b"2\n0\n1\n")],
    "sparse 1.0 too long": [data_map(b"1\n0\n0\n0\n0\n")],
    "sparse 1.0 negative": [data_map(b"-1\n")],
    "sparse 1.0 without data": [data_map(b"1\n0\n1\n")],
    "old sparse, negative": [old_sparse(base256(-1, 12) + slots(1))],
    "old sparse, negative length": [old_sparse(slots(0) + base256(-1, 12) + slots(0, 2))],
    "old sparse, negative size": [old_sparse(slots(0, 1), realsize=base256(-1, 12))],
    "old sparse, negative size and no pieces": [header(b"f", flag=b"S", magic=GNU, realsize=base256(-1, 12))],
    "sparse 1.0, negative size and no pieces": [
        pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"-1"}),
        file(b"f", padded(b"0\n")),
    ],
    "old sparse, outside": [old_sparse(slots(1000, 1))],
    "old sparse, without extension": [old_sparse(slots(0, 0) * 4 + b"\1")],
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid(case: str) -> None:
    with pytest.raises(InvalidImageError) as caught:
        toc(tar(INVALID[case]))
    assert "byte " in str(caught.value)
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize(
    "blocks",
    [
        [header(b"f", flag=b"V")],
        [header(b"f", flag=b"M")],
        [header(b"f", flag=b"D")],
        [header(b"f", flag=b"\xff")],
        [old_sparse(slots(0, 1), magic=V7)],
        [pax({b"GNU.sparse.major": b"2", b"GNU.sparse.minor": b"0"}), file(b"f")],
        [pax({b"GNU.sparse.major": b"1"}), file(b"f")],
    ],
)
def test_unsupported(blocks: list[bytes]) -> None:
    with pytest.raises(UnsupportedError, match="'f' at byte"):
        toc(tar(blocks))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (b"D", "unsupported type 'D' (directory of a GNU incremental backup): only files, links,"),
        (b"V", "unsupported type 'V' (volume label): only files"),
        (b"\xff", r"unsupported type '\xff': only files"),
    ],
)
def test_an_unsupported_type_is_explained(flag: bytes, message: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        toc(tar([header(b"f", flag=flag)]))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("blocks", "limits"),
    [
        ([file(b"f"), file(b"g")], Limits(entries=1)),
        ([header(b"f", 1 << 30, flag=b"x")], Limits()),
        ([header(b"f", base256(1 << 62, 12), flag=b"L")], Limits()),
        ([pax({b"comment": b"c" * 600}), file(b"f")], Limits(extended_header=512)),
        ([pax({b"a": b"b"}, b"g")] * 3, Limits(extended_headers=15)),
        ([pax({b"SCHILY.xattr.a": b"x" * 65536}), file(b"f")], Limits()),
        ([pax({b"SCHILY.xattr.%d" % n: b"x" * 30_000 for n in range(3)}), file(b"f")], Limits()),
        ([record_map(map=b"0,1,2,0", numblocks=b"2")], Limits(sparse_pieces=1)),
        ([record_map(), record_map()], Limits(sparse_pieces=1)),
        ([data_map(b"1000001\n")], Limits()),
        ([data_map(b"9223372036854775807\n")], Limits()),
        ([old_sparse(slots(0, 0) * 4 + b"\1", slots(0, 0) * 21 + b"\1")], Limits(sparse_pieces=20)),
    ],
)
def test_limits(blocks: list[bytes], limits: Limits) -> None:
    with pytest.raises(LimitError):
        toc(tar(blocks), limits)


def test_sparse_by_hand() -> None:
    entry = one(old_sparse(slots(1, 0, 5, 1) + bytes(48) + b"\1", slots(999, 0).ljust(512, b"\0")))
    assert (entry.size, entry.stored, entry.sparse) == (1000, 1, ((5, 1),))
    entry = one(data_map(b"2\n10\n2\n20\n1\n", b"abc"))
    assert (entry.size, entry.stored, entry.sparse, entry.offset) == (1000, 3, ((10, 2), (20, 1)), 2048)
    entry = one(record_map(map=b"999,1", name=b"sparse/name"))
    assert (entry.path, entry.size, entry.sparse) == (b"sparse/name", 1000, ((999, 1),))


SMALL = tar(
    [
        directory(b"d/", mtime=5),
        pax({b"path": b"d/one", b"mtime": b"1.5", b"SCHILY.xattr.user.a": b"1"}),
        file(b"d/one", b"1" * 600),
        pax({b"comment": b"global", b"uid": b"7"}, b"g"),
        long_name(b"d/two"),
        file(b"two", b"2", magic=GNU),
        old_sparse(slots(1, 0, 5, 1) + bytes(48) + b"\1", slots(999, 0).ljust(512, b"\0")),
        record_map(),
        data_map(b"2\n10\n2\n20\n1\n", b"abc"),
        symlink(b"s", b"d/one"),
        hardlink(b"h", b"d/one"),
    ]
)


@pytest.mark.parametrize("size", range(1, len(SMALL) - 1024, 73))
def test_cut(size: int) -> None:
    """A cut is an error, unless it is at the border of a header; then what came before is there."""
    whole = toc(SMALL)
    try:
        found = scan(ReaderForward(BytesReader(SMALL[:size])), warn=lambda message: None)
        assert found == whole[: len(found)]
    except InvalidImageError as error:
        assert "ends" in str(error)  # noqa: PT017


def sealed(data: bytes) -> bytes:
    """Make right the checksum of all blocks that may be headers, so that changes get past it."""
    blocks = [bytearray(data[at : at + 512]) for at in range(0, len(data), 512)]
    for block in blocks:
        if len(block) == 512 and (b"ustar" in block or block[:1] == b"d"):
            block[148:156] = b"        "
            block[148:156] = b"%06o\0 " % sum(block)
    return b"".join(blocks)


@given(
    st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.binary(min_size=1, max_size=12)), max_size=5),
    st.booleans(),
)
def test_mutated(changes: list[tuple[int, bytes]], seal: bool) -> None:
    data = bytearray(SMALL)
    for at, new in changes:
        data[at : at + len(new)] = new
    stream = ReaderForward(BytesReader(sealed(bytes(data)) if seal else bytes(data)))
    try:
        entries = scan(stream, warn=str)  # type: ignore[arg-type]
    except OcifsError as error:
        assert str(error).isprintable()  # noqa: PT017
    else:
        assert all(entry.offset % 512 == 0 and entry.offset + entry.stored <= len(data) for entry in entries)


# Streams


@given(st.lists(st.binary(max_size=9)), st.lists(st.tuples(st.booleans(), st.integers(0, 20))))
def test_chunks_are_a_file(chunks: list[bytes], steps: list[tuple[bool, int]]) -> None:
    stream, file_ = ChunkReader(iter(chunks)), ReaderForward(BytesReader(b"".join(chunks)))
    for read, size in steps:
        if read:
            assert stream.read(size) == file_.read(size)
        else:
            assert stream.skip(size) == file_.skip(size)
        assert stream.offset == file_.offset
    stream.drain()
    assert stream.offset == sum(map(len, chunks))


@pytest.mark.parametrize("size", [1, 511, 512, 513, 1 << 20])
def test_scan_of_chunks(size: int) -> None:
    chunks = (SMALL[at : at + size] for at in range(0, len(SMALL), size))
    assert scan(ChunkReader(chunks), warn=pytest.fail) == toc(SMALL)
