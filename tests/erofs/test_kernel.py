"""The kernel as judge: it mounts the served file, and must see what the reader sees and what was meant."""

import os
import random
import stat
from pathlib import Path

import pytest

from ocifs.erofs.format import served_size
from ocifs.erofs.reader import TreeImage
from ocifs.erofs.writer import compile_tree
from ocifs.tree.node import Extent, Node
from tests.erofs.kernel import mounted
from tests.erofs.trees import (
    Layers,
    directory,
    expected_content,
    file,
    names_of,
    paths,
    sparse,
    special,
    stored,
    symlink,
    with_xattrs,
)

ACL = b"\x02\0\0\0" + b"".join(
    tag.to_bytes(2, "little") + perm.to_bytes(2, "little") + who.to_bytes(4, "little")
    for tag, perm, who in [(1, 7, 2**32 - 1), (2, 5, 1000), (4, 5, 2**32 - 1), (16, 5, 2**32 - 1), (32, 0, 2**32 - 1)]
)


def xattrs_of(path: bytes) -> dict[bytes, bytes]:
    return {
        os.fsencode(name): os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
    }


def listing(path: bytes) -> dict[bytes, int]:
    with os.scandir(path) as entries:
        return {entry.name: entry.inode() for entry in entries}


def check(root: Node, layers: Layers, tmp_path: Path) -> None:
    data = compile_tree(root, layers.sizes, layers.read)
    layers.serve(data, tmp_path / "served")
    image = TreeImage(data, layers.sizes)
    nodes = paths(root)
    names = names_of(root)
    nids = dict(image.walk(image.root))
    assert nids.keys() == nodes.keys()
    with mounted(tmp_path / "served", tmp_path / "mnt") as mount:
        for path, nid in nids.items():
            check_one(image, nid, mount + b"/" + path if path else mount, nodes[path], layers)
            status = os.lstat(mount + b"/" + path)
            assert status.st_nlink == (1 if nodes[path].is_dir else names[id(nodes[path])])
            if stat.S_ISREG(status.st_mode) and status.st_size < 1 << 26:
                content = Path(os.fsdecode(mount + b"/" + path)).read_bytes()
                assert content == expected_content(nodes[path], layers.layers)
                assert content == layers.content(image, nid, data)
        usage = os.statvfs(mount)
        assert usage.f_files - usage.f_ffree == image.inode_count == len(set(nids.values()))


def check_one(image: TreeImage, nid: int, path: bytes, node: Node, layers: Layers) -> None:
    status = os.lstat(path)
    inode = image.inode(nid)
    assert (status.st_mode, status.st_uid, status.st_gid) == (node.mode, node.uid, node.gid)
    assert status.st_mtime_ns == node.mtime_ns
    assert inode[1:9] == (
        status.st_mode,
        status.st_nlink,
        status.st_size,
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        status.st_rdev,
        status.st_blocks,
    )
    assert status.st_ino == nid
    assert xattrs_of(path) == image.xattrs(nid) == node.xattrs
    if stat.S_ISLNK(node.mode):
        assert os.readlink(path) == image.readlink(nid) == node.target
    if stat.S_ISDIR(node.mode):
        entries = {name: child for name, child, _, _ in image.readdir(nid)}
        del entries[b"."], entries[b".."]
        assert listing(path) == entries
        for name, child in entries.items():
            assert os.lstat(path + b"/" + name).st_ino == child == image.lookup(nid, name)
    if stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode):
        assert (os.major(status.st_rdev), os.minor(status.st_rdev)) == node.rdev


def test_every_kind_of_file(tmp_path: Path) -> None:
    layers = Layers(random.Random(1).randbytes(20 << 10), random.Random(2).randbytes(3 << 20), b"")
    hard = stored(700, 512)
    hard.uid, hard.gid, hard.mtime_ns = 2**32 - 2, 70_000, -1
    old = directory({b"in": hard}, mode=0o1777)
    old.mtime_ns = -5_000_000_000 + 123
    root = directory(
        {
            b"!": hard,
            b"#": file(),
            b"-": stored(2_000_000, 1024, layer=1),
            b"old": old,
            b"empty": directory(),
            b"x" * 255: stored(1, 19 << 10),
            b"\xff\n": stored(512, 0),
            b"end": stored(512, 19 << 10),
            b"setuid": file(mode=0o6755),
            b"null": special(stat.S_IFCHR, 1, 3),
            b"large": special(stat.S_IFBLK, 4095, 0xFFFFF),
            b"fifo": special(stat.S_IFIFO),
            b"socket": special(stat.S_IFSOCK),
            b"deep": directory({b"er": directory({b"est": symlink(b"../..")})}),
        }
    )
    check(root, layers, tmp_path)


def test_symlinks_of_all_lengths(tmp_path: Path) -> None:
    links = {b"%d" % size: symlink(b"/" * size) for size in [1, 200, *range(300, 601), 1023, 1024, 1025, 4094, 4095]}
    for size in (1, 300, 447, 448, 512, 600, 4095):
        links[b"x%d" % size] = with_xattrs(symlink(b"/" * size), {b"trusted.a": b"v" * 50})
        links[b"y%d" % size] = with_xattrs(symlink(b"/" * size), {b"trusted.a": b"v" * 2000})
    check(directory({b"links": directory(links)}), Layers(), tmp_path)


def test_directories_of_all_sizes(tmp_path: Path) -> None:
    names = [random.Random(3).randbytes(8).hex().encode() for _ in range(3000)]
    tops = {b"%d" % n: directory({name: file() for name in names[:n]}) for n in [*range(45), 100, 1000, 3000]}
    long = {b"%03d" % n + b"n" * 252: file() for n in range(40)}
    early = {bytes([n]): file() for n in range(1, 128) if n not in b"./"}
    tops |= {b"long": directory(long), b"early": directory(early)}
    tops[b"xattr"] = with_xattrs(directory(long), {b"user.a": b"v" * 400})
    check(directory(tops), Layers(), tmp_path)


def test_a_root_of_many_blocks(tmp_path: Path) -> None:
    root = with_xattrs(directory({b"file%d" % n: file() for n in range(200)}), {b"user.root": b"v" * 600})
    check(root, Layers(), tmp_path)


def test_xattrs(tmp_path: Path) -> None:
    acl = {b"system.posix_acl_access": ACL}
    root = directory(
        {
            b"one": with_xattrs(file(mode=0o750), {b"user.a": b"1", b"trusted.b": b"", b"security.c": b"\0"}),
            b"acl": with_xattrs(file(mode=0o750), acl),
            b"dir": with_xattrs(directory(mode=0o750), acl | {b"system.posix_acl_default": ACL}),
            b"big": with_xattrs(file(), {b"user.big": b"v" * 0xFFFF}),
            b"four": with_xattrs(file(), {b"user.%d" % n: b"v" * 65_000 for n in range(4)}),
            b"many": with_xattrs(file(), {b"user." + b"%03d" % n * 50: bytes([n]) for n in range(200)}),
            b"sparse": with_xattrs(sparse(5000, 0, (1024, 512)), {b"user.s": b"123"}),
        }
    )
    check(root, Layers(bytes(1024)), tmp_path)


@pytest.mark.parametrize(
    ("size", "offset", "pieces"),
    [
        (1_000_000, 512, ()),
        (1_000_000, 512, ((0, 4096), (999_424, 576))),
        (1_000_000, 512, ((4096, 4096), (65_536, 8192), (999_424, 500))),
        (1_000_000, 512, ((1, 1), (3, 1), (100_000, 3))),
        (1_000_000, 512, ((100, 70_000),)),
        (70_000, 512, ((0, 70_000),)),
        (70_001, 513, ((0, 70_001),)),
        (3000, 512, ((0, 2000),)),
        (3000, 512, ((512, 512), (1024, 512), (2048, 952))),
        (5 << 20, 512, tuple((n << 14, 512) for n in range(300))),
        (40 << 30, 512, ((0, 4096), (30 << 30, 8192), ((40 << 30) - 100, 100))),
        ((1 << 40) + 5, 512, ((7 << 30, 4096),)),
        ((1 << 54) + 5, 512, ()),
    ],
)
def test_sparse_files(size: int, offset: int, pieces: tuple[tuple[int, int], ...], tmp_path: Path) -> None:
    layers = Layers(random.Random(4).randbytes(200 << 10))
    extent = Extent(0, offset, sum(length for _, length in pieces), pieces)
    check(directory({b"sparse": file(size, extent)}), layers, tmp_path)
    data = compile_tree(directory({b"sparse": file(size, extent)}), layers.sizes, layers.read)
    with mounted(tmp_path / "served", tmp_path / "again") as mount, Path(os.fsdecode(mount), "sparse").open("rb") as f:
        image = TreeImage(data, layers.sizes)
        places = {0, size - 1, *(place for start, length in pieces[:20] for place in (start, start + length))}
        for place in sorted(places):
            low = max(0, place - 3000)
            assert os.pread(f.fileno(), 6000, low) == piece_content(low, 6000, size, offset, pieces, layers)
            assert sum(n for _, n in image.extents(dict(image.walk(image.root))[b"sparse"], low, 6000)) == min(
                6000, size - low
            )


def piece_content(
    low: int, length: int, size: int, offset: int, pieces: tuple[tuple[int, int], ...], layers: Layers
) -> bytes:
    content = bytearray(min(length, size - low))
    for start, count in pieces:
        for byte in range(max(low, start), min(low + len(content), start + count)):
            content[byte - low] = layers.layers[0][offset + byte - start]
        offset += count
    return bytes(content)


def test_sizes_over_4_gib_and_addresses_near_2_tib(tmp_path: Path) -> None:
    """The layer is a hole on disk, so only its size matters."""
    sizes = [(2 << 40) - (8 << 20)]
    root = directory({b"large": stored(5 << 30, 512), b"last": stored(600, sizes[0] - 1024)})
    data = compile_tree(root, sizes, lambda layer, size, offset: bytes(size))
    served = tmp_path / "served"
    served.write_bytes(data)
    image = TreeImage(data, sizes)
    address = image.extents(dict(image.walk(image.root))[b"last"], 0, 600)[0][0]
    assert address
    with served.open("r+b") as f:
        f.truncate(served_size(len(data), sizes))
        f.seek(address)
        f.write(b"L" * 600)
    with mounted(served, tmp_path / "mnt") as mount:
        assert os.stat(mount + b"/large").st_size == 5 << 30
        assert Path(os.fsdecode(mount), "last").read_bytes() == b"L" * 600


def test_a_deep_tree(tmp_path: Path) -> None:
    root = directory()
    for _ in range(1500):
        root = directory({b"d": root})
    check(root, Layers(), tmp_path)
