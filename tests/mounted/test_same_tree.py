"""The two engines show the same: every name, attribute, extended attribute, target and byte."""

import os
import random
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.command import Ocifs
from tests.images import Image, Layer, write_layout
from tests.mounted.posix_image import ACL, CAPABILITY
from tests.tars import directory, file, hardlink, header, long_name, padded, pax, symlink, tar

pytestmark = pytest.mark.usefixtures("erofs", "root")

_HUGE = (5 << 30) + 12345
_HUGE_MAP = [(0, 700), (1 << 30, 4096), ((4 << 30) - 512, 1024), (_HUGE - 345, 345)]
_WHOLE = 64 << 20
"""Longer files are compared around the edges of their data only."""


@pytest.fixture(scope="module")
def big_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with much of everything that has a size."""
    layers = (Layer(tar(_lower()), "zstd"), Layer(tar(_upper()), "gzip"))
    return write_layout(tmp_path_factory.mktemp("big"), Image(layers=layers))


def _lower() -> Iterator[bytes]:
    yield directory(b"wide/")
    for number in range(100_000):
        yield header(b"wide/%d" % number, mtime=number, uid=number, mode=number % 0o10000)
    yield directory(b"links/")
    for size in range(1, 4096):
        target = (b"no/%d/" % size * size)[:size]
        name = b"links/%d" % size
        yield symlink(name, target) if size <= 100 else long_name(target, b"K") + symlink(name, target[:100])
    yield directory(b"sizes/")
    content = random.Random(5)
    for size in (1, 511, 512, 513, 4095, 4096, 4097, 1 << 16, (1 << 20) - 1, (3 << 20) + 1):
        yield file(b"sizes/%d" % size, content.randbytes(size))


def _upper() -> Iterator[bytes]:
    yield directory(b"names/")
    for number in range(1000):
        name = b"names/" + b"%03d" % number + bytes([33 + number % 14]) * 252
        yield long_name(name) + file(name[:100], b"%d" % number)
    yield directory(b"times/")
    for number, time in enumerate((b"-0.000000001", b"-1.5", b"-2147483649.999999999", b"0", b"0.1", b"4294967297.25")):
        yield pax({b"mtime": time}) + file(b"times/%d" % number)
    for number, start in enumerate((b"sizes/513", b"wide/7", b"links/5", b"times/0")):
        yield hardlink(b"hard-%d" % number, start)
        yield hardlink(b"harder-%d" % number, b"hard-%d" % number)
    for number, (major, minor) in enumerate(((0, 0), (1, 3), (4095, 0xFFFFF), (255, 256))):
        for kind in b"34":
            name = b"device-%d-%c" % (number, kind)
            yield header(name, flag=bytes([kind]), mode=0o600, major=major, minor=minor)
    yield header(b"fifo", flag=b"6")
    sparse_map = b"%d\n" % len(_HUGE_MAP) + b"".join(b"%d\n%d\n" % piece for piece in _HUGE_MAP)
    keys = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"%d" % _HUGE}
    data = random.Random(6).randbytes(sum(length for _, length in _HUGE_MAP))
    yield pax(keys) + file(b"huge", padded(sparse_map) + data)
    xattrs = {b"user.%d" % number * 20: bytes([number]) * number * 40 for number in range(1, 40)}
    xattrs |= {b"security.capability": CAPABILITY, b"trusted.ours": b"", b"system.posix_acl_access": ACL}
    records = pax({b"SCHILY.xattr." + name: value for name, value in xattrs.items()})
    yield records + file(b"attributed", b"content", mode=0o640)
    yield records + directory(b"attributed-dir/", mode=0o750)
    yield pax({b"SCHILY.xattr.system.posix_acl_default": ACL}) + directory(b"acl-dir/")


class Seen(NamedTuple):
    """All that can be seen of a file, but for what tells file systems apart."""

    mode: int
    nlink: int
    owner: tuple[int, int]
    size: int
    rdev: int
    times: tuple[int, int, int]
    inode: int
    xattrs: dict[str, bytes]
    content: list[bytes]
    """A regular file's bytes, a symlink's target, the names in a directory as they come."""


def seen(path: bytes, top: bytes) -> Seen:
    status = os.lstat(path)
    return Seen(
        status.st_mode,
        status.st_nlink,
        (status.st_uid, status.st_gid),
        status.st_size,
        status.st_rdev,
        (status.st_mtime_ns, status.st_atime_ns, status.st_ctime_ns),
        0 if path == top else status.st_ino,  # of the root each engine has its own
        {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)},
        list(content(path, status)),
    )


def content(path: bytes, status: os.stat_result) -> Iterable[bytes]:
    if stat.S_ISLNK(status.st_mode):
        return [os.readlink(path)]
    if stat.S_ISDIR(status.st_mode):
        return sorted(os.listdir(path))
    if not stat.S_ISREG(status.st_mode) or not status.st_size:
        return []
    if status.st_size <= _WHOLE:
        return [Path(os.fsdecode(path)).read_bytes()]
    return pieces(path)


def pieces(path: bytes) -> Iterator[bytes]:
    with Path(os.fsdecode(path)).open("rb", buffering=0) as opened:
        for start, length in [*_HUGE_MAP, (3 << 30, 1 << 20)]:
            for edge in (start, start + length):
                low = max(0, edge - 70_000)
                yield os.pread(opened.fileno(), 140_000, low)


def below(top: bytes) -> Iterator[bytes]:
    yield top
    for directory_, directories, files in os.walk(top):
        yield from (os.path.join(directory_, name) for name in directories + files)


@pytest.mark.parametrize("image", ["posix_image", "big_image"])
def test_both_engines_show_the_same(session_ocifs: Ocifs, request: pytest.FixtureRequest, image: str) -> None:
    layout = request.getfixturevalue(image)
    with ExitStack() as stack:
        fuse, erofs = (
            bytes(stack.enter_context(session_ocifs.mounted(layout, "--engine", engine)))
            for engine in ("fuse", "erofs")
        )
        paths = sorted(path[len(fuse) :] for path in below(fuse))
        assert sorted(path[len(erofs) :] for path in below(erofs)) == paths
        wide = [path for path in paths if path.startswith(b"/wide/")]
        for path in sorted({*paths}.difference(wide)) + wide[::20]:  # their names are compared above
            assert seen(fuse + path, fuse) == seen(erofs + path, erofs), path


def test_and_what_was_meant(session_ocifs: Ocifs, big_image: Path) -> None:
    with session_ocifs.mounted(big_image, "--engine", "erofs") as mountpoint:
        assert len(os.listdir(mountpoint / "wide")) == 100_000
        assert os.lstat(mountpoint / "wide/99999").st_uid == 99_999
        assert len(os.readlink(mountpoint / "links/4095")) == 4095
        assert {len(name) for name in os.listdir(mountpoint / "names")} == {255}
        assert os.lstat(mountpoint / "times/2").st_mtime_ns == -2147483649_999999999
        assert os.lstat(mountpoint / "hard-0").st_nlink == 3
        assert os.lstat(mountpoint / "huge").st_size == _HUGE
        data = random.Random(6).randbytes(sum(length for _, length in _HUGE_MAP))
        with (mountpoint / "huge").open("rb") as huge:
            assert b"".join(os.pread(huge.fileno(), length, start) for start, length in _HUGE_MAP) == data
