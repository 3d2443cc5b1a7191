import contextlib
import mmap
import random
import stat
import tempfile
from itertools import islice

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocifs.erofs.format import FILE_TYPES, layer_bases
from ocifs.erofs.reader import TreeImage
from ocifs.erofs.writer import compile_tree
from ocifs.errors import InvalidImageError
from ocifs.tree.node import Node
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

LAYERS = Layers(random.Random(6).randbytes(40_000), random.Random(7).randbytes(3000))

names = st.binary(min_size=1, max_size=255).filter(lambda name: not set(name) & {0, 47} and name not in {b".", b".."})
short_names = st.one_of(st.sampled_from([b"!", b"#", b"-", b".a", b"..a", b"0"]), names)
leaves = st.one_of(
    st.builds(file),
    st.tuples(st.integers(0, 3000), st.integers(0, 50).map(lambda n: n * 512)).map(lambda t: stored(*t)),
    st.integers(0, 3000).map(lambda n: stored(n, 0, layer=1)),
    st.binary(max_size=4095).filter(lambda target: 0 not in target).map(symlink),
    st.integers(0, 4095).map(lambda size: symlink(b"t" * size)),
    st.tuples(st.sampled_from([stat.S_IFCHR, stat.S_IFBLK]), st.integers(0, 4095), st.integers(0, 0xFFFFF)).map(
        lambda t: special(*t)
    ),
    st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK]).map(special),
    st.integers(1, 100_000)
    .map(lambda size: sparse(size, 512, (size // 2, size - size // 2)))
    .filter(lambda node: node.extent is not None and node.extent.size < 30_000),
)
trees = st.recursive(
    leaves, lambda children: st.dictionaries(short_names, children, max_size=8).map(directory), max_leaves=25
)
xattrs = st.dictionaries(
    st.one_of(
        st.sampled_from([b"system.posix_acl_access", b"system.posix_acl_default"]),
        st.tuples(st.sampled_from([b"user.", b"trusted.", b"security."]), st.binary(min_size=1, max_size=255))
        .map(b"".join)
        .filter(lambda name: 0 not in name),
    ),
    st.one_of(st.binary(max_size=20), st.integers(0, 0xFFFF).map(bytes)),
    max_size=3,
)
u32 = st.integers(0, 2**32 - 1)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(short_names, trees, max_size=10), st.data())
def test_every_attribute_comes_back(children: dict[bytes, Node], data: st.DataObject) -> None:
    root = directory(children)
    found = paths(root)
    if len(found) > 1 and (linked := [node for node in found.values() if not node.is_dir]):
        children[b"linked"] = root.children[b"linked"] = linked[0]  # type: ignore[index]
        found = paths(root)
    for node in found.values():
        node.mode = stat.S_IFMT(node.mode) | data.draw(st.integers(0, 0o7777))
        node.uid, node.gid = data.draw(u32), data.draw(u32)
        node.mtime_ns = data.draw(st.integers(-(2**63), 2**63))
        node.xattrs = data.draw(xattrs)
    image_bytes = compile_tree(root, LAYERS.sizes, LAYERS.read)
    image = TreeImage(image_bytes, LAYERS.sizes)
    nids = list(image.walk(image.root))
    assert [path.split(b"/") for path, _ in nids] == sorted(path.split(b"/") for path in found)
    assert image.inode_count == len({nid for _, nid in nids}) == len(names_of(root))
    for path, nid in nids:
        check(image, nid, found[path], names_of(root), image_bytes)


def check(image: TreeImage, nid: int, node: Node, links: dict[int, int], data: bytes) -> None:
    inode = image.inode(nid)
    assert (inode.mode, inode.uid, inode.gid, inode.mtime_ns) == (node.mode, node.uid, node.gid, node.mtime_ns)
    assert inode.nlink == (1 if node.is_dir else links[id(node)])
    assert image.xattrs(nid) == node.xattrs
    assert list(image.xattrs(nid)) == sorted(node.xattrs)
    assert inode.blocks == -(-inode.size // 512)
    major, minor = node.rdev
    assert inode.rdev == minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
    if node.children is not None:
        entries = list(image.readdir(nid))
        assert [name for name, *_ in entries] == sorted([b".", b"..", *node.children])
        for name, child, file_type, cookie in entries:
            assert image.lookup(nid, name) == child
            assert FILE_TYPES[stat.S_IFMT(image.inode(child).mode)] == file_type
            assert list(image.readdir(nid, cookie)) == entries[entries.index((name, child, file_type, cookie)) + 1 :]
            assert name in node.children or child in {nid, image.root} or name == b".."
        assert image.lookup(nid, b"absent" * 9) is None
    elif stat.S_ISLNK(node.mode):
        assert image.readlink(nid) == node.target
    elif stat.S_ISREG(node.mode):
        assert inode.size == node.size
        assert LAYERS.content(image, nid, data) == expected_content(node, LAYERS.layers)


@pytest.fixture(scope="module")
def large() -> TreeImage:
    return Layers().compile(directory({b"big": directory({b"file-%06d" % n: file() for n in range(100_000)})}))


def test_a_directory_of_100_000_entries(large: TreeImage) -> None:
    nid = large.lookup(large.root, b"big")
    assert nid is not None
    entries = list(large.readdir(nid))
    assert [name for name, *_ in entries] == [b".", b"..", *(b"file-%06d" % n for n in range(100_000))]
    for index in range(0, 100_000, 997):
        name, child, _, cookie = entries[index]
        assert large.lookup(nid, name) == child
        assert list(islice(large.readdir(nid, cookie), 50)) == entries[index + 1 : index + 51]
    for absent in (b"", b"!", b"file-", b"file-0000001", b"file-05000", b"zzz", b"file-100000", b"\xff" * 255):
        assert large.lookup(nid, absent) is None
    assert list(large.readdir(nid, entries[-1][3])) == []
    assert list(large.readdir(nid, 1 << 62)) == []


def test_lookup_is_not_misled_by_names_within_names() -> None:
    children = {name: file() for name in (b"ab", b"abc", b"b", b"bc", b"cab", b"c" * 40 + b"a", b"nbc", b"zz")}
    image = Layers().compile(directory({b"d": directory(children)}))
    nid = image.lookup(image.root, b"d")
    assert nid is not None
    for name in [*children, b"a", b"c", b"ca", b"bcc", b"z", b"cc", b"\0", b"zz\0", b"abcbb"]:
        assert (image.lookup(nid, name) is not None) == (name in children)


def test_a_tree_of_2000_levels() -> None:
    root = directory()
    for _ in range(2000):
        root = directory({b"d": root})
    image = Layers().compile(root)
    assert [len(path) for path, _ in image.walk(image.root)] == [0, *range(1, 4000, 2)]


def test_a_mapped_image() -> None:
    data = compile_tree(directory({b"link": symlink(b"target")}), [], LAYERS.read)
    with tempfile.TemporaryFile() as f:
        f.write(data)
        f.flush()
        with mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            image = TreeImage(mapped, [])
            assert [(path, image.inode(nid).size) for path, nid in image.walk(image.root)][1:] == [(b"link", 6)]
            nid = image.lookup(image.root, b"link")
            assert nid is not None
            assert image.readlink(nid) == b"target"


def test_extents_of_a_plain_file() -> None:
    image = Layers(bytes(10_000), bytes(9000)).compile(directory({b"f": stored(5000, 1024, layer=1)}))
    nid = image.lookup(image.root, b"f")
    assert nid is not None
    start = layer_bases(image.size, [10_000, 9000])[1] + 1024
    assert image.extents(nid, 0, 5000) == [(start, 5000)]
    assert image.extents(nid, 4999, 4096) == [(start + 4999, 1)]
    assert image.extents(nid, 100, 0) == image.extents(nid, 5000, 1) == image.extents(nid, 1 << 70, 1) == []
    assert image.extents(nid, -1, 10) == []
    assert image.layer_of(start + 7) == (1, 1031)
    assert image.layer_of(image.size - 1) is None


def sample() -> tuple[bytes, Layers]:
    files: dict[bytes, Node] = {b"file-%03d" % n: stored(100 * n, 512) for n in range(60)}
    files |= {
        b"link": symlink(b"t" * 40),
        b"long": symlink(b"t" * 1500),
        b"sparse": sparse(100_000, 512, (4096, 4096), (20_000, 30)),
        b"xattrs": with_xattrs(file(), {b"user.a": b"1", b"security.b": b"2" * 700}),
        b"sub": directory({b"sub": directory({b"null": special(stat.S_IFCHR, 1, 3)})}),
    }
    return compile_tree(directory(files), LAYERS.sizes, LAYERS.read), LAYERS


def read_all(data: bytes, sizes: list[int]) -> None:
    """Ask everything there is to ask."""
    image = TreeImage(data, sizes)
    for _, nid in islice(image.walk(image.root), 500):
        inode = image.inode(nid)
        image.xattrs(nid)
        if stat.S_ISDIR(inode.mode):
            for name, *_ in islice(image.readdir(nid), 100):
                image.lookup(nid, name)
        elif stat.S_ISLNK(inode.mode):
            image.readlink(nid)
        elif stat.S_ISREG(inode.mode):
            for offset in (0, inode.size // 2, inode.size - 1):
                for address, length in image.extents(nid, offset, 1 << 20):
                    assert length > 0
                    if address is not None and (place := image.layer_of(address)):
                        assert place[1] + length <= sizes[place[0]]


@pytest.mark.parametrize("seed", range(40))
def test_damage_is_found_or_harmless(seed: int) -> None:
    data, layers = sample()
    rng = random.Random(seed)
    used = len(data.rstrip(b"\0"))
    for _ in range(25):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 1, 4, 50])):
            place = rng.randrange(1024, used)
            width = rng.choice([1, 2, 4, 8])
            value = rng.choice([bytes(width), b"\xff" * width, rng.randbytes(width)])
            damaged[place : place + width] = value
        with contextlib.suppress(InvalidImageError):
            read_all(bytes(damaged), layers.sizes)


@pytest.mark.parametrize("length", [0, 1, 1023, 1024, 1151, 1152, 1536, 2048, 4096, 8192])
def test_a_truncated_image_is_refused(length: int) -> None:
    data, layers = sample()
    assert len(data) > length
    with pytest.raises(InvalidImageError):
        read_all(data[:length], layers.sizes)


@pytest.mark.parametrize("sizes", [[], [40_000], [40_000, 3 << 20], [4_000_000, 3000]])
def test_an_image_of_other_layers_is_refused(sizes: list[int]) -> None:
    with pytest.raises(InvalidImageError, match="of other layers"):
        TreeImage(sample()[0], sizes)


def test_a_loop_of_directories_ends() -> None:
    data = bytearray(compile_tree(directory({b"d": directory({b"e": directory()})}), [], LAYERS.read))
    image = TreeImage(bytes(data), [])
    nids = dict(image.walk(image.root))
    at = data.rindex(nids[b"d/e"].to_bytes(8, "little"), 0, data.index(b"...e"))
    data[at : at + 8] = nids[b"d"].to_bytes(8, "little")
    with pytest.raises(InvalidImageError, match="loop"):
        list(TreeImage(bytes(data), []).walk(image.root))


def test_a_layer_that_is_not_there_is_refused() -> None:
    node = file()
    node.layer = 1
    tree = directory({b"f": node})
    image = TreeImage(compile_tree(tree, [0, 0], LAYERS.read), [0, 0])
    nid = dict(image.walk(image.root))[b"f"]
    assert (image.inode(nid).layer, image.inode(image.root).layer) == (1, 0)
    with pytest.raises(InvalidImageError, match="malformed"):
        TreeImage(compile_tree(tree, [0], LAYERS.read), [0]).inode(nid)


def test_a_walk_leaves_out_what_it_is_told_to() -> None:
    image = Layers().compile(directory({b"a": directory({b"x": file()}), b"b": directory({b"y": file()})}))
    paths: list[bytes] = []
    for path, _ in image.walk(image.root, lambda: paths[-1] == b"a"):
        paths.append(path)
    assert paths == [b"", b"a", b"b", b"b/y"]
    assert [path for path, _ in image.walk(image.root, lambda: True)] == [b""]


@pytest.mark.parametrize("nid", [-1, 0, 1, 35, 1 << 40, 1 << 64])
def test_no_such_inode(nid: int) -> None:
    data, layers = sample()
    image = TreeImage(data, layers.sizes)
    for ask in (image.inode, image.xattrs, image.readlink, lambda n: list(image.readdir(n))):
        with pytest.raises(InvalidImageError):
            ask(nid)


def test_questions_of_the_wrong_kind() -> None:
    data, layers = sample()
    image = TreeImage(data, layers.sizes)
    link = image.lookup(image.root, b"link")
    assert link is not None
    with pytest.raises(InvalidImageError):
        image.readlink(image.root)
    with pytest.raises(InvalidImageError):
        image.lookup(link, b"x")
    with pytest.raises(InvalidImageError):
        list(image.readdir(link))
    with pytest.raises(InvalidImageError):
        image.extents(link, 0, 1)
