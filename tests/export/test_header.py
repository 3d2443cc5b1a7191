"""Headers of tar members are read by others as what was meant: by our own reader and by Python's."""

import io
import os
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocifs.export.header import DIRECTORY, HARDLINK, REGULAR, SYMLINK, Header, encode
from ocifs.reader import BytesReader
from ocifs.toc.entry import Entry
from ocifs.toc.forward import ReaderForward
from ocifs.toc.scan import scan

PLAIN = Header(b"name", REGULAR, 0o644, 0, 0, 0)


def read(data: bytes) -> Entry:
    warnings: list[str] = []
    (entry,) = scan(ReaderForward(BytesReader(data + bytes(1024))), warn=warnings.append)
    assert warnings == []
    return entry


def test_a_plain_header_is_one_block_that_everybody_knows() -> None:
    header = PLAIN._replace(mode=0o4755, uid=1000, gid=0o7777777, mtime_ns=10**18, size=0o77777777777)
    block = encode(header, {}, {})
    assert len(block) == 512
    info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    assert (info.name, info.mode, info.uid, info.gid) == ("name", 0o4755, 1000, 0o7777777)
    assert (info.mtime, info.size, info.uname, info.gname) == (10**9, 0o77777777777, "", "")


@pytest.mark.parametrize(
    "header",
    [
        PLAIN._replace(path=b"n" * 100),
        PLAIN._replace(path=b"d/" * 60 + b"n"),
        PLAIN._replace(path=b"\xff/" * 100 + b"\n"),
        PLAIN._replace(uid=0o10000000, gid=2**32 - 2),
        PLAIN._replace(flag=SYMLINK, link=b"\xe9" * 100),
        PLAIN._replace(flag=SYMLINK, link=b"t" * 4095),
        PLAIN._replace(flag=HARDLINK, link=b"d/" * 100 + b"n"),
        PLAIN._replace(flag=DIRECTORY, path=b"d" * 99 + b"/"),
        PLAIN._replace(flag=DIRECTORY, path=b"d" * 100 + b"/"),
        PLAIN._replace(mtime_ns=1),
        PLAIN._replace(mtime_ns=-1),
        PLAIN._replace(mtime_ns=-(10**9)),
        PLAIN._replace(mtime_ns=-1_500_000_000),
        PLAIN._replace(mtime_ns=2**63 - 1),
        PLAIN._replace(mtime_ns=-(2**63)),
    ],
)
def test_what_a_plain_header_cannot_hold(header: Header) -> None:
    entry = read(encode(header, {}, {}))
    assert (entry.path, entry.linkname) == (header.path, header.link)
    assert (entry.uid, entry.gid, entry.mtime_ns) == (header.uid, header.gid, header.mtime_ns)


def test_sizes_over_8_gib() -> None:
    data = encode(PLAIN._replace(size=9 << 30), {}, {})
    with tarfile.open(fileobj=io.BytesIO(data + bytes(1024))) as archive:
        member = archive.next()
    assert member
    assert member.size == 9 << 30


def test_devices_of_all_numbers() -> None:
    for major, minor in [(0, 0), (1, 3), (4095, 2**20 - 1)]:
        header = PLAIN._replace(flag=b"3", rdev=os.makedev(major, minor))
        assert read(encode(header, {}, {})).rdev == (major, minor)


@given(
    st.dictionaries(
        st.binary(min_size=1, max_size=240).filter(lambda name: b"\0" not in name).map(lambda name: b"user." + name),
        st.binary(max_size=2000),
        max_size=5,
    )
)
def test_extended_attributes_of_any_bytes(xattrs: dict[bytes, bytes]) -> None:
    assert read(encode(PLAIN, {}, xattrs)).xattrs == xattrs


@given(st.integers(0, 1200))
def test_records_of_any_length_count_themselves(length: int) -> None:
    assert read(encode(PLAIN, {}, {b"user.x": bytes(length)})).xattrs == {b"user.x": bytes(length)}
