"""The tree as of a layer, and what a layer changes: made once, of as many layers as it takes, and closed."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocifs.errors import NotFoundError
from ocifs.image.chain import chain_of
from ocifs.image.kinds import CHANGES, TREE
from ocifs.image.opening import open_image
from ocifs.image.rootfs import Rootfs
from ocifs.image.trees import Trees
from ocifs.image.verification import verify_image
from ocifs.layer.index import LayerIndex
from ocifs.layer.layer import Layer as OpenedLayer
from ocifs.layer.span_cache import SpanCache
from ocifs.options import Options
from ocifs.store import Kind, Store
from ocifs.toc import Entry
from tests import tars
from tests.images import Image, Layer, digest, write_layout

LAYERS = (
    Layer(tars.tar([tars.file(b"a", b"zero"), tars.directory(b"d"), tars.file(b"d/x", b"x"), tars.file(b"kept")])),
    Layer(tars.tar([tars.file(b"a", b"one"), tars.file(b".wh.kept"), tars.hardlink(b"again", b"d/x")])),
    Layer(tars.tar([tars.file(b"d/.wh..wh..opq"), tars.file(b"d/y", b"y")])),
)


@pytest.fixture
def image(tmp_path: Path) -> str:
    return str(write_layout(tmp_path / "image", Image(LAYERS)))


def paths(rootfs: Rootfs) -> list[str]:
    """Return the paths: `-` after a whiteout, `!` after an opaque directory."""
    marks = [
        (path.decode(), "-" * rootfs.is_whiteout(inode) + "!" * rootfs.is_opaque(inode))
        for path, inode in rootfs.walk()
    ]
    return [path + mark for path, mark in marks if path]


def test_the_tree_as_of_each_layer(image: str) -> None:
    expected = [["a", "d", "d/x", "kept"], ["a", "again", "d", "d/x"], ["a", "again", "d", "d/y"]]
    with open_image(image) as opened:
        assert [paths(opened.as_of(number)) for number in range(3)] == expected
        assert paths(opened.as_of(-3)) == expected[0]
        assert opened.as_of(0).open("a").read() == b"zero"
        assert opened.as_of(1).open("a").read() == b"one"
        assert opened.as_of(2).tree.inode_count == opened.rootfs.tree.inode_count
    for number, tree in enumerate(expected):
        with open_image(image, Options(layer=number)) as opened:
            assert paths(opened.rootfs) == tree
            assert len(opened.layers) == len(opened.resolved.layers) == number + 1


def test_what_each_layer_changes(image: str) -> None:
    expected = [["a", "d", "d/x", "kept"], ["a", "again", "kept-"], ["d!", "d/y"]]
    with open_image(image) as opened:
        assert [paths(opened.changes(number)) for number in range(3)] == expected
        assert opened.changes(1).open("again").read() == b"x"  # of a layer below
    with open_image(image) as opened:
        assert [paths(opened.changes(number)) for number in (2, 0, 1, 2)] == [expected[n] for n in (2, 0, 1, 2)]
    for number, tree in enumerate(expected):
        with open_image(image, Options(layer=number, changes_only=True)) as opened:
            assert paths(opened.rootfs) == tree
            assert paths(opened.changes(number)) == tree


def test_only_the_layers_that_are_needed_are_read(tmp_path: Path) -> None:
    broken = Layer(b"no tar" * 200)
    image = str(write_layout(tmp_path / "image", Image((*LAYERS, broken))))
    with open_image(image, Options(layer=2)) as opened:
        assert paths(opened.rootfs) == ["a", "again", "d", "d/y"]


@pytest.mark.parametrize("number", [3, -4, 1 << 70])
def test_a_layer_out_of_range(image: str, number: int) -> None:
    with pytest.raises(NotFoundError, match=r"among the 3 layers of .*: they are 0 to 2"):
        open_image(image, Options(layer=number))
    with open_image(image) as opened:
        for ask in (opened.as_of, opened.changes):
            with pytest.raises(NotFoundError, match=f"no layer {number} "):
                ask(number)


def test_an_image_without_layers_has_no_layer(tmp_path: Path) -> None:
    image = str(write_layout(tmp_path / "image", Image(())))
    with pytest.raises(NotFoundError, match="there are none"):
        open_image(image, Options(layer=0))
    with open_image(image, Options(changes_only=True)) as opened:
        assert paths(opened.rootfs) == []


def test_trees_are_kept_by_chain_id(image: str, tmp_path: Path) -> None:
    def options() -> Options:
        return Options(store=Store(tmp_path / "cache"))

    with open_image(image, options()) as opened:
        before = [paths(opened.as_of(0)), *(paths(opened.changes(number)) for number in range(3))]
    entries = {(entry.kind, entry.subject) for entry in Store(tmp_path / "cache").entries()}
    base = digest(LAYERS[0].tar)
    assert {("tree4", base), ("changes3", base)} <= entries
    assert [kind for kind, _ in entries].count("changes3") == 3

    def files() -> dict[str, tuple[int, int]]:
        """Return inode and time of creation of each entry."""
        return {each.name: (each.inode(), each.stat().st_mtime_ns) for each in os.scandir(tmp_path / "cache/entries")}

    made = files()
    with open_image(image, options()) as opened:
        assert [paths(opened.as_of(0)), *(paths(opened.changes(number)) for number in range(3))] == before
    assert files() == made


ZERO_BYTES = Image((Layer(b"", "tar"),))


@pytest.mark.parametrize("images", [(Image(()), ZERO_BYTES), (ZERO_BYTES, Image(()))], ids=["none first", "none last"])
def test_no_layers_are_another_stack_than_a_layer_of_no_bytes(images: tuple[Image, ...], tmp_path: Path) -> None:
    """Though that layer's chain ID is the digest of nothing."""
    others = Image((Layer(b""), *LAYERS)), Image(LAYERS)
    for number, image in enumerate((*images, *others, *images)):
        layout = write_layout(tmp_path / str(number), image)
        with open_image(layout, Options(store=Store(tmp_path / "cache"))) as opened:
            assert bool(paths(opened.rootfs)) == (len(image.layers) >= 3)
            assert len([opened.changes(each) for each in range(len(image.layers))]) == len(image.layers)
        problems = [check.problem for check in verify_image(str(layout), Options(store=Store(tmp_path / "cache")))]
        assert set(problems) == {None}


def stored(store: Store, kind: Kind, subject: str) -> bytes:
    file = store.load(kind, subject)
    assert file is not None
    data = file.pread(file.size, 0)
    file.close()
    return data


def put(store: Store, kind: Kind, subject: str, data: bytes) -> None:
    store.get(kind, subject, lambda out: out.write(data), anew=True).close()


@pytest.mark.parametrize("kind", [TREE, CHANGES])
@pytest.mark.parametrize("forged", ["of other layers", "empty", "nonsense"])
def test_a_tree_that_does_not_fit_is_made_again(kind: Kind, forged: str, image: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    other = write_layout(tmp_path / "other", Image((Layer(tars.tar([tars.file(b"other", bytes(9 << 20))])),)))

    def look(layout: str | Path) -> tuple[list[str], str]:
        with open_image(layout, Options(store=store)) as opened:
            return paths(opened.as_of(-1) if kind == TREE else opened.changes(-1)), chain_of(opened.layers)

    expected, subject = look(image)
    right = stored(store, kind, subject)
    wrong = {"of other layers": stored(store, kind, look(other)[1]), "empty": b"", "nonsense": b"x" * 8192}
    put(store, kind, subject, wrong[forged])
    assert look(image)[0] == expected
    assert stored(store, kind, subject) == right


def unverified(layer: OpenedLayer, published: str) -> OpenedLayer:
    """Return a layer whose index is published, not verified."""
    return OpenedLayer(layer.number, layer.index, layer.blob, SpanCache(), published)


def test_what_is_published_of_two_blobs_makes_two_trees(tmp_path: Path) -> None:
    """One zTOC may fit blobs of which it says the same, though they decompress to streams of other sizes."""
    store = Store(tmp_path / "cache")
    layers = [
        Layer(tars.tar([tars.file(b"a", b"one")])),
        Layer(tars.tar([tars.file(b"b", bytes(9 << 20))])),
    ]
    for name, layer in zip("ab", layers, strict=True):
        with open_image(write_layout(tmp_path / name, Image((layer,)))) as opened:
            trees = Trees([unverified(opened.layers[0], "soci-v1 sha256:0")], store, lambda message: None)
            assert paths(trees.as_of(1)) == [name]
            trees.close()
    assert [entry.kind for entry in store.entries()] == ["ptree4", "ptree4"]


def test_what_is_claimed_never_makes_a_tree_under_the_name_of_the_streams(image: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    with open_image(image, Options(store=store)) as opened:
        subject = chain_of(opened.layers)
        for data in (b"nonsense", None):
            if data is None:
                (tmp_path / "cache/entries" / f"tree4-{subject.replace(':', '-')}").write_bytes(b"damaged")
            else:
                put(store, TREE, subject, data)
            trees = Trees([unverified(each, "ocifs sha256:0") for each in opened.layers], store, lambda message: None)
            assert paths(trees.as_of(3)) == ["a", "again", "d", "d/y"]
            trees.close()
            if data is not None:
                assert stored(store, TREE, subject) == data
        assert store.load(TREE, subject) is None


def test_in_order_one_pass_serves_all(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[LayerIndex] = []
    entries = LayerIndex.entries

    def counted(index: LayerIndex) -> Iterator[Entry]:
        read.append(index)
        return entries(index)

    with open_image(image) as opened:
        monkeypatch.setattr(LayerIndex, "entries", counted)
        for number in range(3):
            opened.changes(number)
        assert read == opened.indexes


def test_closing_closes_every_tree(image: str) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with open_image(image) as opened:
        for number in range(3):
            opened.as_of(number)
            opened.changes(number)
    assert set(os.listdir("/proc/self/fd")) == before
