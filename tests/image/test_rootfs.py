"""Looking things up and reading them in a merged tree, without any mount."""

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ocifs.errors import InvalidImageError, NotFoundError
from ocifs.image.opening import Image, open_image
from ocifs.image.rootfs import Rootfs
from tests import images, tars

BIG = random.Random(1).randbytes(3 << 20)
LAYERS = (
    images.Layer(
        tars.tar(
            [
                tars.directory(b"etc"),
                tars.file(b"etc/name", b"content"),
                tars.symlink(b"absolute", b"/etc/name"),
                tars.symlink(b"relative", b"etc/../etc/name"),
                tars.symlink(b"out", b"../../../etc"),
                tars.symlink(b"dangling", b"nowhere"),
                tars.symlink(b"loop", b"loop"),
                tars.symlink(b"to_no_directory", b"etc/name/"),
                *(tars.symlink(b"chain%d" % n, b"chain%d" % (n + 1)) for n in range(41)),
                tars.symlink(b"chain41", b"etc/name"),
                tars.symlink(b"etc/up", b".."),
                tars.file(b"big", BIG),
                tars.file(b"empty"),
            ]
        )
    ),
)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    path = images.write_layout(tmp_path_factory.mktemp("image") / "layout", images.Image(LAYERS))
    with open_image(str(path)) as opened:
        yield opened


@pytest.fixture
def rootfs(image: Image) -> Rootfs:
    return image.rootfs


@pytest.mark.parametrize(
    "path",
    ["/etc/name", "etc/name", "//etc/./name", "absolute", "relative", "out/name", "etc/up/etc/name", "../etc/name"],
)
def test_lookup_finds(rootfs: Rootfs, path: str) -> None:
    assert rootfs.open(path).read() == b"content"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("nowhere", "no such file"),
        ("dangling", "no such file"),
        ("loop", "symbolic links"),
        ("etc/name/x", "Not a directory"),
        ("etc/name/", "Not a directory"),
        ("etc/name/..", "Not a directory"),
        ("etc/name/.", "Not a directory"),
        ("absolute/", "Not a directory"),
        ("to_no_directory", "Not a directory"),
        ("etc", "is a directory"),
    ],
)
def test_lookup_says_why_not(rootfs: Rootfs, path: str, why: str) -> None:
    with pytest.raises(NotFoundError, match=why):
        rootfs.open(path)


def test_lookup_may_stop_at_a_symlink(rootfs: Rootfs) -> None:
    assert rootfs.readlink(rootfs.lookup("absolute", follow=False)) == b"/etc/name"


def test_a_slash_at_the_end_asks_for_what_a_symlink_leads_to(rootfs: Rootfs) -> None:
    assert rootfs.lookup("out/", follow=False) == rootfs.lookup("etc")
    assert rootfs.lookup("/") == rootfs.lookup("") == rootfs.lookup("../..") == rootfs.root


def test_as_many_symlinks_are_followed_as_linux_does(rootfs: Rootfs) -> None:
    assert rootfs.open("chain2").read() == b"content"  # 40 of them
    with pytest.raises(NotFoundError, match="symbolic links"):
        rootfs.lookup("chain1")


def test_holes_are_read_as_zeros(tmp_path: Path) -> None:
    records = {
        b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": b"sparse",
        b"GNU.sparse.realsize": b"1000000",
    }  # fmt: skip
    body = tars.padded(b"2\n4096\n5000\n900000\n10\n") + BIG[:5010]
    layer = images.Layer(tars.tar([tars.pax(records), tars.file(b"sparse", body)]))
    expected = bytes(4096) + BIG[:5000] + bytes(900_000 - 9096) + BIG[5000:5010] + bytes(1_000_000 - 900_010)
    with open_image(images.write_layout(tmp_path / "layout", images.Image((layer,)))) as opened:
        rootfs, nid = opened.rootfs, opened.rootfs.lookup("sparse")
        assert rootfs.open("sparse").read() == expected
        for border in (0, 4096, 9096, 899_999, 900_010, 1_000_000):
            for offset in range(max(0, border - 2), border + 3):
                assert rootfs.read(nid, 100, offset) == expected[offset : offset + 100]


def test_an_open_file_reads_by_line_and_into_buffers(rootfs: Rootfs) -> None:
    with rootfs.open("big") as file:
        assert b"".join(file) == BIG
        file.seek(-5, os.SEEK_CUR)
        buffer = bytearray(10)
        assert file.readinto(buffer) == 5
        assert bytes(buffer) == BIG[-5:] + bytes(5)
        assert file.tell() == len(BIG)
        assert file.seek(10, os.SEEK_END) == len(BIG) + 10
        assert file.read(1) == b""
        assert not file.writable()


def test_walk_gives_paths_below_in_order(rootfs: Rootfs) -> None:
    assert [path for path, _ in rootfs.walk("/etc")] == [b"", b"name", b"up"]
    assert [path for path, _ in rootfs.walk("/out/")] == [b"", b"name", b"up"]
    assert [inode.nid for _, inode in rootfs.walk("/etc/name")] == [rootfs.lookup("/etc/name")]
    everything = [path for path, _ in rootfs.walk()]
    assert len(everything) == len(set(everything)) == opened_names() + 1


def opened_names() -> int:
    return LAYERS[0].tar.count(b"ustar\0")


def test_an_open_file_is_a_file(rootfs: Rootfs) -> None:
    with rootfs.open("big") as file:
        assert file.seek(-10, os.SEEK_END) == len(BIG) - 10
        assert file.read() == BIG[-10:]
        assert file.read() == b""
        file.seek(1 << 20)
        assert file.read(100) == BIG[1 << 20 : (1 << 20) + 100]
        with pytest.raises(OSError, match="Invalid argument"):
            file.seek(-1)
    assert rootfs.open("empty").read() == b""


def test_many_threads_read_the_same_bytes(rootfs: Rootfs) -> None:
    nid = rootfs.lookup("big")

    def read_some(seed: int) -> bool:
        chance = random.Random(seed)
        for _ in range(50):
            offset, size = chance.randrange(len(BIG)), chance.randrange(1 << 18)
            if rootfs.read(nid, size, offset) != BIG[offset : offset + size]:
                return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read_some, range(8)))


@pytest.mark.parametrize("around", [0, 512, 1 << 20, 2 << 20, len(BIG)])
@pytest.mark.parametrize("size", [0, 1, 2, 4096, 1 << 20])
def test_reads_around_borders(rootfs: Rootfs, around: int, size: int) -> None:
    nid = rootfs.lookup("big")
    for offset in range(max(0, around - 2), around + 3):
        assert rootfs.read(nid, size, offset) == BIG[offset : offset + size]


def test_the_served_file_holds_every_layer_and_zeros_between(rootfs: Rootfs) -> None:
    served = rootfs.served
    tar = LAYERS[0].tar
    base = served.size - len(tar)
    base -= base % (1 << 20)
    assert served.pread(len(tar), base) == tar
    assert served.pread(1000, base - 500) == bytes(500) + tar[:500]
    assert served.pread(10, served.size) == b""
    at_hand = served.views_at_hand(1000, base - 500)
    assert at_hand is not None
    assert b"".join(at_hand) == bytes(500) + tar[:500]


def test_a_blob_that_changes_gives_an_error_and_no_other_bytes(tmp_path: Path) -> None:
    layout = images.write_layout(tmp_path / "layout", images.Image(LAYERS))
    blob = layout / images.blob_path(images.digest(LAYERS[0].blob))
    with open_image(str(layout)) as opened:
        rootfs = opened.rootfs
        with blob.open("r+b") as file:
            file.seek(-(1 << 20), os.SEEK_END)
            file.write(b"changed")
        with pytest.raises(InvalidImageError, match=images.digest(LAYERS[0].blob)):
            rootfs.read(rootfs.lookup("big"), len(BIG), 0)
        assert rootfs.open("etc/name").read() == b"content"
