"""The directories of a store, stacked as overlayfs stacks them, are the merged tree; and their tars come back."""

import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings

from ocifs.erofs.reader import Inode
from ocifs.errors import InvalidImageError
from ocifs.image.opening import open_image
from ocifs.image.rootfs import Rootfs
from ocifs.imagestore.directory import StoreDirectory
from ocifs.imagestore.images import stacked
from ocifs.imagestore.records import IdRanges, link_name
from ocifs.imagestore.tar_split import write_tar_split
from ocifs.imagestore.tree import StackedImage, StoreTree, open_store_tree
from ocifs.options import Options
from ocifs.store import Store
from ocifs.tarsplit.entries import Content, decode
from ocifs.tarsplit.stream import assemble
from tests.depth import depth
from tests.hostile.model import Member
from tests.hostile.test_differential import stacks, written
from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, hardlink, pax, symlink, tar

_OPAQUE = {b"trusted.overlay.opaque", b"user.overlay.opaque"}
_SHIFTED = IdRanges("user", "subuid", ((0, 1000, 1), (1, 100_000, 50)), ((0, 2000, 1), (1, 200_000, 50)))


class Seen(NamedTuple):
    """A file, without its hard links: those across layers are several files to overlayfs."""

    mode: int
    uid: int
    gid: int
    rdev: int
    mtime_ns: int
    content: bytes
    xattrs: Mapping[bytes, bytes]


@contextmanager
def store_of(*images: Path, ids: IdRanges | None = None) -> Iterator[tuple[StoreTree, list[StackedImage]]]:
    options = Options(store=Store(None))
    with ExitStack() as stack:
        stacks = [stacked(stack.enter_context(open_image(image, options))) for image in images]
        tree = open_store_tree(stacks, options, ids)
        stack.callback(tree.close)
        yield tree, stacks


def seen(rootfs: Rootfs, inode: Inode) -> Seen:
    content = b""
    if stat.S_ISREG(inode.mode):
        content = rootfs.read(inode.nid, inode.size, 0)
    elif stat.S_ISLNK(inode.mode):
        content = rootfs.readlink(inode.nid)
    xattrs = {name: value for name, value in rootfs.tree.xattrs(inode.nid).items() if name not in _OPAQUE}
    return Seen(inode.mode, inode.uid, inode.gid, inode.rdev, inode.mtime_ns, content, xattrs)


def overlaid(tree: StoreTree, ids: tuple[str, ...]) -> dict[bytes, Seen]:
    """Stack the layers, the base first, as overlayfs does: at the root, it ignores the mark of an opaque directory."""
    rootfs = tree.rootfs
    merged: dict[bytes, Seen] = {}
    for identity in ids:
        layer = dict(rootfs.walk(f"/{identity}/diff"))
        for path, inode in layer.items():
            below = [each for each in merged if each.startswith(path + b"/") or (not path and each)]
            is_dir = stat.S_ISDIR(inode.mode)
            was_dir = path in merged and stat.S_ISDIR(merged[path].mode)
            is_opaque = path and _OPAQUE & set(rootfs.tree.xattrs(inode.nid))
            if not (is_dir and was_dir) or is_opaque:
                for each in below:
                    del merged[each]
            if stat.S_ISCHR(inode.mode) and not inode.rdev:
                del merged[path]  # each whiteout hides something
            else:
                merged[path] = seen(rootfs, inode)
    return merged


def merged(image: Path) -> dict[bytes, Seen]:
    with open_image(image, Options()) as opened:
        return {path: seen(opened.rootfs, inode) for path, inode in opened.rootfs.walk()}


def tar_again(directory: StoreDirectory, tree: StoreTree, identity: str) -> bytes:
    """Return the tar of a layer, made of its tar-split and of the files in its directory."""
    below = f"/{identity}/diff/".encode()

    def read(entry: Content) -> list[bytes]:
        nid = tree.rootfs.lookup(below + entry.name, follow=False)
        return [tree.rootfs.read(nid, entry.size + 1, 0)]

    with directory.open_tar_split(identity) as stored:
        return b"".join(assemble(decode(stored), read))


@given(stacks())
@settings(max_examples=depth(60, 5000), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_stacked_layers_are_the_merged_tree(layers: list[list[Member]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        image = written(layers, Path(place) / "image")
        try:
            expected = merged(image)
        except InvalidImageError:
            return
        with store_of(image) as (tree, (stack,)):
            assert overlaid(tree, stack.ids) == expected
            with StoreDirectory.opened(Path(place) / "store", make=True) as at:
                for identity, layer in zip(stack.ids, stack.image.layers, strict=True):
                    write_tar_split(at, identity, layer, tree)
                    assert tar_again(at, tree, identity) == b"".join(layer.stream())


LOWER = tar([directory(b"d/"), file(b"d/lower", b"1"), file(b"e", b"22", uid=33, gid=51), file(b"gone", b"x")])
UPPER = tar([file(b"d/.wh..wh..opq"), file(b"d/new", b"3"), file(b".wh.gone"), hardlink(b"linked", b"e")])


def test_the_directory_is_that_of_the_overlay_driver(tmp_path: Path) -> None:
    image = write_layout(tmp_path / "image", Image((Layer(LOWER), Layer(UPPER))))
    with store_of(image) as (tree, (stack,)):
        base, top = stack.ids
        links = [link_name(identity) for identity in stack.ids]
        root = tree.rootfs
        assert {name for name, _, _ in root.tree.entries(root.root)} == {b"l", base.encode(), top.encode()}
        directories = {name for name, _, _ in root.tree.entries(root.lookup(f"/{top}"))}
        assert directories == {b"diff", b"link", b"lower", b"merged", b"work", b"empty"}
        with root.open(f"/{top}/link") as link, root.open(f"/{top}/lower") as lower:
            assert link.read().decode() == links[1]
            assert lower.read().decode() == f"l/{links[0]}"
        assert b"lower" not in {name for name, _, _ in root.tree.entries(root.lookup(f"/{base}"))}
        assert root.readlink(root.lookup(f"/l/{links[1]}", follow=False)).decode() == f"../{top}/diff"
        assert root.tree.xattrs(root.lookup(f"/{top}/diff/d")) == {b"trusted.overlay.opaque": b"y"}
        gone = root.tree.inode(root.lookup(f"/{top}/diff/gone"))
        assert (stat.S_ISCHR(gone.mode), gone.rdev, gone.has_xattrs) == (True, 0, False)
        assert root.open(f"/{top}/diff/linked").read() == b"22"


def test_an_opaque_root_hides_what_is_below_by_whiteouts(tmp_path: Path) -> None:
    """The kernel ignores its mark, seen with Linux 6.18."""
    upper = tar([file(b".wh..wh..opq"), file(b"d/only", b"4"), file(b"own", b"5")])
    image = write_layout(tmp_path / "image", Image((Layer(LOWER), Layer(upper))))
    with store_of(image) as (tree, (stack,)):
        root = tree.rootfs
        names = {name for name, _, _ in root.tree.entries(root.lookup(f"/{stack.ids[1]}/diff"))}
        assert names == {b"d", b"own", b"e", b"gone"}
        assert set(overlaid(tree, stack.ids)) == {b"", b"d", b"d/only", b"own"}


def test_for_a_user_the_owners_are_subordinate_ids(tmp_path: Path) -> None:
    image = write_layout(tmp_path / "image", Image((Layer(LOWER), Layer(UPPER))))
    with store_of(image, ids=_SHIFTED) as (tree, (stack,)):
        root = tree.rootfs

        def owner(path: str) -> tuple[int, int]:
            inode = root.tree.inode(root.lookup(path))
            return inode.uid, inode.gid

        assert owner("/") == owner(f"/{stack.ids[0]}/link") == owner(f"/{stack.ids[0]}/diff/d") == (1000, 2000)
        assert owner(f"/{stack.ids[0]}/diff/e") == (100_032, 65534)  # the user has 50 subordinate gids only
        assert root.tree.xattrs(root.lookup(f"/{stack.ids[1]}/diff/d")) == {b"user.overlay.opaque": b"y"}


def test_images_share_their_layers(tmp_path: Path) -> None:
    first = write_layout(tmp_path / "first", Image((Layer(LOWER), Layer(UPPER))))
    second = write_layout(tmp_path / "second", Image((Layer(LOWER, "zstd"), Layer(tar([file(b"own", b"5")])))))
    with store_of(first, second) as (tree, (one, other)):
        assert one.ids[0] == other.ids[0]
        assert len(tree.rootfs.served.layers) == 3
        assert overlaid(tree, one.ids) == merged(first)
        assert overlaid(tree, other.ids) == merged(second)
    with store_of(second, first) as (again, _), store_of(first, second) as (tree, _):
        assert again.digest != tree.digest  # the command sorts them


_PAX_SPARSE = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": b"sparse"}


@pytest.mark.parametrize(
    "members",
    [
        [file(b"twice", b"first"), file(b"twice", b"second"), file(b"./twice", b"third")],
        [file(b"a", b"1"), directory(b"a/"), file(b"a/b", b"2")],
        [directory(b"d/"), symlink(b"s", b"d"), file(b"s/through", b"x" * 600)],
        [file(b"../../up", b"up"), file(b"/root", b"root")],
        [file(b".wh.data", b"a whiteout with data"), file(b"\xff\xfe", b"not UTF-8")],
        [file(b"f", b"1"), hardlink(b"h", b"f"), file(b"f", b"2")],
        [
            pax({**_PAX_SPARSE, b"GNU.sparse.realsize": b"2000"})
            + file(b"ignored", b"1\n1000\n3\n".ljust(512, b"\0") + b"abc"),
            file(b"next", b"n"),
        ],
        [],
    ],
    ids=["duplicates", "replaced by a directory", "symlink", "dots", "odd names", "hard link", "sparse", "empty"],
)
def test_the_tar_of_a_layer_comes_back(members: list[bytes], tmp_path: Path) -> None:
    data = tar(members)
    image = write_layout(tmp_path / "image", Image((Layer(LOWER), Layer(data))))
    with store_of(image) as (tree, (stack,)), StoreDirectory.opened(tmp_path / "store", make=True) as at:
        write_tar_split(at, stack.ids[1], stack.image.layers[1], tree)
        assert tar_again(at, tree, stack.ids[1]) == data
        with at.open_tar_split(stack.ids[1]) as stored:
            names = [entry.name for entry in decode(stored) if isinstance(entry, Content)]
    assert len(set(names)) == len(names)  # the Go library refuses a name that occurs twice
    assert not any(name.startswith(b"/") or b".." in name for name in names)
