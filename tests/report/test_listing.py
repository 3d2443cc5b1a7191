"""Files as lines and as JSON, whatever their names, times and types are."""

import base64
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocifs.errors import printable
from ocifs.image.opening import Image, open_image
from ocifs.image.rootfs import Rootfs
from ocifs.report.listing import Listed, describe, long_lines, to_json
from tests import images, tars

YEAR_0001 = -62_135_596_800
YEAR_9999 = 253_402_300_799
TIMES = {
    b"before": (-1, "1969-12-31 23:59:59"),
    b"epoch": (0, "1970-01-01 00:00:00"),
    b"after": (951_782_400, "2000-02-29 00:00:00"),
}
EXTREMES = {b"long ago": -(2**33 * 10), b"far": 2**33 * 100, b"first": YEAR_0001, b"last": YEAR_9999}


def member(name: bytes, mtime: int) -> bytes:
    return tars.file(name, b"", mtime=tars.base256(mtime, 12))


LAYER = tars.tar(
    [
        tars.directory(b"dir", mode=0o1777),
        tars.file(b"dir/file", b"content", mode=0o4755, uid=1000, gid=50, mtime=951_782_400),
        tars.hardlink(b"dir/same", b"dir/file"),
        tars.file(b"dir/.hidden"),
        tars.symlink(b"link", b"dir/\xff"),
        tars.header(b"null", flag=b"3", mode=0o666, major=1, minor=3),
        tars.header(b"disk", flag=b"4", mode=0o660, major=8, minor=0),
        tars.header(b"pipe", flag=b"6"),
        tars.pax({b"SCHILY.xattr.user.name": b"va\0lue"}),
        tars.file(b"xattrs", b"data"),
        tars.file(b"no \xff utf-8", b"x"),
        tars.file(b"bell\x07\x1b[2J\n", b"x"),
        *(member(b"times/" + name, mtime) for name, (mtime, _) in TIMES.items()),
        *(member(b"extremes/" + name, mtime) for name, mtime in EXTREMES.items()),
    ]
)
DIGESTS = ["sha256:layer"]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    layout = images.write_layout(tmp_path_factory.mktemp("image") / "layout", images.Image((images.Layer(LAYER),)))
    with open_image(layout) as opened:
        yield opened


@pytest.fixture
def rootfs(image: Image) -> Rootfs:
    return image.rootfs


@pytest.fixture(params=["UTC", "Pacific/Kiritimati", "Etc/GMT+12"])
def zone(request: pytest.FixtureRequest) -> Iterator[str]:
    """The ends of the range of time zones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


def listed(rootfs: Rootfs, path: bytes, *, detailed: bool = False) -> Listed:
    return Listed.of(rootfs, path, rootfs.lookup(path, follow=False), detailed=detailed)


@pytest.mark.parametrize("zone", ["UTC"], indirect=True)
def test_long_lines_are_those_of_ls(rootfs: Rootfs, zone: str) -> None:
    entries = [listed(rootfs, path) for path in (b"dir", b"dir/file", b"link", b"null", b"disk", b"pipe")]
    assert list(long_lines(entries, lambda name: name)) == [
        b"drwxrwxrwt 1    0  0 %4d 1970-01-01 00:00 dir" % entries[0].inode.size,
        b"-rwsr-xr-x 2 1000 50    7 2000-02-29 00:00 dir/file",
        b"lrwxrwxrwx 1    0  0    5 1970-01-01 00:00 link -> dir/\xff",
        b"crw-rw-rw- 1    0  0 1, 3 1970-01-01 00:00 null",
        b"brw-rw---- 1    0  0 8, 0 1970-01-01 00:00 disk",
        b"prw-r--r-- 1    0  0    0 1970-01-01 00:00 pipe",
    ]


def test_no_entries_are_no_lines() -> None:
    assert list(long_lines([], lambda name: name)) == []


def test_names_are_written_as_the_caller_shows_them(rootfs: Rootfs) -> None:
    entry = listed(rootfs, b"bell\x07\x1b[2J\n")
    for lines in (long_lines([entry], escaped), describe(entry, DIGESTS, escaped)):
        assert all(line.decode().isprintable() for line in lines)
    assert b"dir/\\xff" in next(iter(long_lines([listed(rootfs, b"link")], escaped)))


def escaped(name: bytes) -> bytes:
    return printable(name).encode()


@pytest.mark.parametrize("name", TIMES)
def test_times(rootfs: Rootfs, name: bytes) -> None:
    mtime, text = TIMES[name]
    entry = listed(rootfs, b"times/" + name)
    assert entry.inode.mtime_ns == mtime * 10**9
    assert f"Modify: {text}.000000000 +0000".encode() in list(describe(entry, DIGESTS, escaped))


@pytest.mark.parametrize("name", EXTREMES)
def test_times_that_no_calendar_has_are_shown_all_the_same(rootfs: Rootfs, name: bytes, zone: str) -> None:
    entry = listed(rootfs, b"extremes/" + name)
    (line,) = long_lines([entry], escaped)
    assert line.endswith(name)
    assert any(b"Modify: " in line for line in describe(entry, DIGESTS, escaped))
    assert json.loads(to_json(entry))["mtime_ns"] == entry.inode.mtime_ns


def test_describe_tells_where_the_bytes_lie(rootfs: Rootfs) -> None:
    entry = listed(rootfs, b"xattrs", detailed=True)
    lines = list(describe(entry, DIGESTS, escaped))
    assert lines[0] == b"  File: xattrs"
    assert lines[1] == b"  Size: 4  Blocks: 1  Type: regular"
    assert lines[3] == b"Access: (0644/-rw-r--r--)  Uid: 0  Gid: 0"
    assert lines[5] == b" Xattr: user.name = 0x7661006c7565"
    assert lines[6] == b" Layer: 0 sha256:layer, tar bytes %d+4" % LAYER.index(b"data" + bytes(100))
    assert b"Device type: 1, 3" in list(describe(listed(rootfs, b"null", detailed=True), DIGESTS, escaped))[1]


def test_json_has_these_keys(rootfs: Rootfs) -> None:
    entry = listed(rootfs, b"dir/file")
    assert json.loads(to_json(entry)) == {
        "path": "dir/file",
        "type": "regular",
        "mode": "4755",
        "inode": entry.inode.nid,
        "nlink": 2,
        "uid": 1000,
        "gid": 50,
        "size": 7,
        "mtime_ns": 951_782_400 * 10**9,
        "layer": 0,
    }


def test_json_tells_more_when_asked(rootfs: Rootfs) -> None:
    fields = json.loads(to_json(listed(rootfs, b"xattrs", detailed=True)))
    assert fields["xattrs"] == [{"name": "user.name", "value_base64": base64.b64encode(b"va\0lue").decode()}]
    assert fields["extents"] == [{"layer": 0, "offset": LAYER.index(b"data" + bytes(100)), "size": 4}]
    assert json.loads(to_json(listed(rootfs, b"dir", detailed=True)))["extents"] == []
    assert json.loads(to_json(listed(rootfs, b"null")))["rdev"] == [1, 3]


@pytest.mark.parametrize(
    ("path", "key", "name"),
    [(b"no \xff utf-8", "path", b"no \xff utf-8"), (b"link", "target", b"dir/\xff")],
    ids=["path", "target"],
)
def test_json_gives_names_that_are_no_text_in_base64_too(rootfs: Rootfs, path: bytes, key: str, name: bytes) -> None:
    fields = json.loads(to_json(listed(rootfs, path)))
    assert fields[key] == name.decode(errors="backslashreplace")
    assert base64.b64decode(fields[f"{key}_base64"]) == name


def test_json_is_one_line_of_text(rootfs: Rootfs) -> None:
    for path, inode in rootfs.walk():
        line = to_json(Listed.of(rootfs, path, inode.nid, detailed=True))
        assert line.decode().isprintable()
        assert json.loads(line)["inode"] == inode.nid


def test_every_type_has_a_word(rootfs: Rootfs) -> None:
    words = {listed(rootfs, name).type for name in (b"dir", b"dir/file", b"link", b"null", b"disk", b"pipe")}
    assert words == {"directory", "regular", "symlink", "character", "block", "fifo"}


def test_devices_keep_large_numbers(tmp_path: Path) -> None:
    layer = images.Layer(tars.tar([tars.header(b"big", flag=b"3", major=0o7777, minor=0o377777)]))
    with open_image(images.write_layout(tmp_path / "layout", images.Image((layer,)))) as opened:
        entry = listed(opened.rootfs, b"big")
    assert (os.major(entry.inode.rdev), os.minor(entry.inode.rdev)) == (0o7777, 0o377777)
