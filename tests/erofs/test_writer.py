import logging
import random
import stat
from collections.abc import Callable
from functools import partial

import pytest

from ocifs.erofs.format import layer_bases, served_size
from ocifs.erofs.reader import TreeImage
from ocifs.erofs.writer import compile_tree
from ocifs.errors import InvalidImageError, LimitError, OcifsError, UnsupportedError
from ocifs.limits import Limits
from ocifs.tree.node import Extent, Node
from tests.erofs.trees import Layers, directory, file, paths, sparse, special, stored, symlink, with_xattrs


def never(layer: int, size: int, offset: int) -> bytes:
    raise AssertionError("nothing needs to be read")


def test_the_layout_of_the_smallest_image() -> None:
    data = compile_tree(directory(), [], never)
    assert len(data) == 4096
    assert data[1024:1028] == b"\xe2\xe1\xf5\xe0"
    assert TreeImage(data, []).root == 36
    assert data[1536:1563] == b"\x24" + bytes(7) + b"\x18\0\2\0" + b"\x24" + bytes(7) + b"\x19\0\2\0" + b"..."


def test_layers_begin_at_whole_mib() -> None:
    mib = 1 << 20
    assert layer_bases(4096, []) == []
    assert layer_bases(4096, [1, 0, mib, 5]) == [mib, 2 * mib, 2 * mib, 3 * mib]
    assert served_size(4096, []) == 4096
    assert served_size(4096, [1, 0, mib, 5]) == 3 * mib + 4096


def test_the_same_tree_gives_the_same_bytes() -> None:
    names = [b"%d" % n for n in range(200)]
    images = set()
    for seed in range(3):
        random.Random(seed).shuffle(names)
        xattrs = {b"user." + name: name for name in names if name < b"105"}
        children = {name: with_xattrs(file(), xattrs) for name in names}
        images.add(bytes(compile_tree(directory({b"d": directory(children), **children}), [], never)))
    assert len(images) == 1


@pytest.mark.parametrize("size", [1, 511, 512, 513, 5000])
def test_a_file_that_no_layer_has_is_in_the_image(size: int) -> None:
    node = file()
    node.content = bytes(range(256)) * (size // 256 + 1)
    node.content = node.content[:size]
    image = Layers(b"x" * 512).compile(directory({b"a": node, b"b": stored(100, 0)}))
    nid = dict(image.walk(image.root))[b"a"]
    assert image.inode(nid).size == size
    ((address, length),) = image.extents(nid, 0, size + 1)
    assert address is not None
    assert image.read(length, address) == node.content


def test_images_have_different_uuids() -> None:
    uuids = {compile_tree(directory({name: file()}), [], never)[1072:1088] for name in (b"a", b"b")}
    assert len(uuids) == 2


def test_hard_links_are_one_inode() -> None:
    node = file()
    image = Layers().compile(directory({b"a": node, b"d": directory({b"b": node}), b"c": file()}))
    nids = dict(image.walk(image.root))
    assert nids[b"a"] == nids[b"d/b"] != nids[b"c"]
    assert [image.inode(nids[name]).nlink for name in (b"a", b"c", b"d")] == [2, 1, 1]
    assert image.inode_count == 4


@pytest.mark.parametrize(
    ("names", "label"),
    [
        ([], (False, False)),
        ([b"user.a"], (True, False)),
        ([b"system.posix_acl_access"], (True, True)),
        ([b"nfs4.acl"], (False, False)),
    ],
)
def test_the_label_tells_of_xattrs_and_acls(names: list[bytes], label: tuple[bool, bool]) -> None:
    warnings: list[str] = []
    root = directory({b"f": with_xattrs(file(), dict.fromkeys(names, b"v"))})
    image = TreeImage(compile_tree(root, [], never, warnings.append), [])
    assert (image.has_xattrs, image.has_acls) == label


def test_xattrs_of_other_namespaces_are_left_out_with_one_warning() -> None:
    warnings: list[str] = []
    names = [b"nfs4.acl\x1b", b"user.", b"user.a\0b", b"system.other", b"", b"user.kept"]
    files = {b"%d" % n: with_xattrs(file(), dict.fromkeys(names, b"v")) for n in range(3)}
    image = TreeImage(compile_tree(directory(files), [], never, warnings.append), [])
    for _, nid in list(image.walk(image.root))[1:]:
        assert image.xattrs(nid) == {b"user.kept": b"v"}
    assert len(warnings) == 1
    assert "/0" in warnings[0]
    assert warnings[0].isprintable()


def test_warnings_are_logged_by_default(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        compile_tree(with_xattrs(directory(), {b"x.%s": b""}), [], never)
    assert "x.%s of /" in caplog.text


def broken(mode: int = stat.S_IFREG, **attributes: int) -> Node:
    node = Node(mode | 0o644)
    for name, value in attributes.items():
        setattr(node, name, value)
    return node


LONG = dict.fromkeys([b"user.%d" % n for n in range(5)], b"v" * 60_000)


@pytest.mark.parametrize(
    ("node", "error"),
    [
        (broken(0), InvalidImageError),
        (broken(0o150000), InvalidImageError),
        (broken(children={}), InvalidImageError),  # type: ignore[arg-type]
        (broken(size=-1), InvalidImageError),
        (broken(size=1 << 63), InvalidImageError),
        (broken(size=1 << 80), InvalidImageError),
        (broken(uid=1 << 32), UnsupportedError),
        (broken(gid=-1), UnsupportedError),
        (broken(mtime_ns=1 << 100), UnsupportedError),
        (broken(mode=0o100644 | 1 << 20), UnsupportedError),
        (special(stat.S_IFCHR, 4096, 0), UnsupportedError),
        (special(stat.S_IFBLK, 0, 1 << 20), UnsupportedError),
        (special(stat.S_IFBLK, -1, 0), UnsupportedError),
        (symlink(b"t" * 4096), UnsupportedError),
        (symlink(b"t\0"), InvalidImageError),
        (with_xattrs(file(), {b"user.a": b"v" * 65536}), UnsupportedError),
        (with_xattrs(file(), {b"user." + b"n" * 256: b""}), UnsupportedError),
        (with_xattrs(file(), LONG), LimitError),
        (stored(513, 1536), InvalidImageError),
        (stored(1, -512), InvalidImageError),
        (stored(1, 0, layer=1), InvalidImageError),
        (stored(1, 0, layer=-1), InvalidImageError),
        (file(10, Extent(0, 0, 11)), InvalidImageError),
        (file(10, Extent(0, 0, -1)), InvalidImageError),
        (file(1000, Extent(0, 0, 5, ((0, 4),))), InvalidImageError),
        (sparse(1000, 0, (500, 10), (0, 10)), InvalidImageError),
        (sparse(1000, 0, (0, 10), (5, 10)), InvalidImageError),
        (sparse(1000, 0, (995, 10)), InvalidImageError),
        (sparse(1000, 0, (-5, 10)), InvalidImageError),
        (sparse(1000, 0, (20, -10), (30, 20)), InvalidImageError),
        (file((1 << 63) - 1), LimitError),
        (sparse(1 << 60, 0, (1 << 40, 1)), LimitError),
        (directory({b"n" * 256: file()}), UnsupportedError),
        *((directory({name: file()}), InvalidImageError) for name in (b"", b".", b"..", b"a/b", b"a\0")),
    ],
)
def test_what_cannot_be_stored_is_refused_with_its_path(node: Node, error: type[OcifsError]) -> None:
    root = directory({b"dir": directory({b"bad\n": node})})
    with pytest.raises(error, match=r"^/dir/bad\\n: ") as caught:
        compile_tree(root, [2048], lambda layer, size, offset: bytes(size))
    assert str(caught.value).isprintable()


def test_directories_may_have_one_name_only() -> None:
    loop = directory()
    loop.children = {b"loop": loop}
    twice = directory()
    for children in ({b"a": loop}, {b"a": twice, b"b": twice}):
        with pytest.raises(InvalidImageError, match="a directory with two names"):
            compile_tree(directory(children), [], never)


def test_more_than_2_tib_is_refused() -> None:
    with pytest.raises(LimitError, match="2 TiB"):
        compile_tree(directory(), [1 << 40, 1 << 40], never)


@pytest.mark.parametrize(
    "node",
    [lambda: file(1 << 58), lambda: sparse(1 << 40, 0, *((n << 23, 1) for n in range(2)))],
    ids=["tables", "literals"],
)
def test_sparse_files_are_bounded_together(node: Callable[[], Node]) -> None:
    one = directory({b"0": node()})
    many = directory({b"%d" % n: node() for n in range(100)})
    compile_tree(one, [2048], lambda layer, size, offset: bytes(size))
    with pytest.raises(LimitError, match=r"^/\d+: sparse files need more than"):
        compile_tree(many, [2048], lambda layer, size, offset: bytes(size))


def test_a_stream_that_ends_early_is_refused() -> None:
    with pytest.raises(InvalidImageError, match=r"^/odd: the layer ends within"):
        compile_tree(directory({b"odd": sparse(3000, 0, (1, 1000))}), [2048], lambda layer, size, offset: b"")


def test_a_deep_tree_needs_no_recursion_and_a_short_message() -> None:
    root = directory()
    leaf = root
    for _ in range(20_000):
        child = directory()
        leaf.children = {b"dddd": child}
        leaf = child
    leaf.children = {b"bad": broken(0)}
    with pytest.raises(InvalidImageError, match=r"^…/d") as caught:
        compile_tree(root, [], never)
    assert len(str(caught.value)) < 1000
    leaf.children = {}
    assert Layers().compile(root).inode_count == 20_001


@pytest.mark.parametrize(("most", "fits"), [(13, True), (12, False)])
def test_paths_are_counted_whole(most: int, fits: bool) -> None:
    both = stored(1, 0)
    root = directory({b"d": directory({b"e": directory(), b"ff": both}), b"g": both})  # /d /d/e /d/ff /g
    image = partial(compile_tree, root, [512], never, limits=Limits(paths=most))
    if fits:
        image()
    else:
        with pytest.raises(LimitError, match="the paths of the image have 13 bytes together: over the limit paths=12;"):
            image()


def test_plain_files_cost_64_bytes_and_their_entry() -> None:
    root = directory({b"dir": directory({b"%05d" % n: stored(100, 512) for n in range(10_000)})})
    assert len(compile_tree(root, [1024], never)) < 10_000 * (64 + 12 + 5 + 1)
    assert len(paths(root)) == 10_002
