"""Bytes that are stored and not seen."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocifs.image.opening import Image, open_image
from ocifs.report.efficiency import Efficiency
from ocifs.report.waste import Duplicates, Hidden, Waste, duplicates, waste
from ocifs.report.waste_text import Rules, broken_rules, to_json, waste_lines
from ocifs.toc import REGULAR
from ocifs.tree.merge import merge
from ocifs.tree.node import Node
from tests import images
from tests.tars import directory, file, hardlink, pax, symlink, tar

_SPARSE = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0"}


@contextmanager
def _opened(where: Path, layers: Iterable[Iterable[bytes]]) -> Iterator[Image]:
    written = tuple(images.Layer(tar(members)) for members in layers)
    with open_image(images.write_layout(where, images.Image(written))) as image:
        yield image


def _hidden(where: Path, *layers: Iterable[bytes]) -> list[Hidden]:
    with _opened(where / "layout", layers) as image:
        found = waste(image)
    # Of a sparse file whole chunks are counted.
    more = sum(each.size for each in found.hidden) - sum(each.hidden for each in found.layers)
    assert 0 <= more <= 512
    return found.hidden


def _sparse(name: bytes) -> bytes:
    records = {**_SPARSE, b"GNU.sparse.name": name, b"GNU.sparse.realsize": b"3000"}
    return pax(records) + file(b"x", b"1\n1000\n512\n".ljust(512, b"\0") + b"s" * 512)


BASE = [directory(b"d"), file(b"d/a", b"1" * 10), file(b"d/b", b"2" * 20), file(b"c", b"3" * 30), file(b"empty")]


def test_replaced_removed_and_cut(tmp_path: Path) -> None:
    found = _hidden(
        tmp_path, BASE, [file(b"c", b"new"), file(b"d/.wh.a")], [file(b"d/.wh..wh..opq"), file(b"d/x", b"x")]
    )
    assert found == [
        Hidden(30, b"/c", 0, 1, "replaced"),
        Hidden(20, b"/d/b", 0, 2, "removed"),
        Hidden(10, b"/d/a", 0, 1, "removed"),
    ]


def test_a_directory_that_goes_takes_all_with_it(tmp_path: Path) -> None:
    assert _hidden(tmp_path, BASE, [file(b".wh.d")], [directory(b"d"), file(b"d/a", b"again")]) == [
        Hidden(20, b"/d/b", 0, 1, "removed"),
        Hidden(10, b"/d/a", 0, 1, "removed"),
    ]


def test_a_file_in_the_place_of_a_directory(tmp_path: Path) -> None:
    assert [each.path for each in _hidden(tmp_path, BASE, [file(b"d", b"file")], [file(b".wh.d")])] == [
        b"/d/b", b"/d/a", b"/d"
    ]  # fmt: skip


def test_opaque_and_given_anew_in_one_layer(tmp_path: Path) -> None:
    upper = [file(b"d/.wh..wh..opq"), file(b"d/a", b"new")]
    assert _hidden(tmp_path, BASE, upper) == [
        Hidden(20, b"/d/b", 0, 1, "removed"),
        Hidden(10, b"/d/a", 0, 1, "replaced"),
    ]


def test_the_root_made_opaque(tmp_path: Path) -> None:
    assert len(_hidden(tmp_path, BASE, [file(b".wh..wh..opq"), file(b"only", b"1")])) == 3


@pytest.mark.parametrize("make", [lambda name: file(name, b"x" * 512), _sparse], ids=["plain", "sparse"])
def test_a_file_with_several_names_is_hidden_with_the_last(tmp_path: Path, make: Callable[[bytes], bytes]) -> None:
    base = [make(b"a"), directory(b"d"), hardlink(b"d/b", b"a")]
    assert _hidden(tmp_path / "one", base, [file(b".wh.a")]) == []
    (found,) = _hidden(tmp_path / "both", base, [file(b"d/.wh.b")], [file(b".wh.a")])
    assert (found.path, found.layer, found.by) == (b"/a", 0, 2)


def test_a_name_that_a_later_layer_gives(tmp_path: Path) -> None:
    linked = [[file(b"a", b"x" * 9)], [hardlink(b"b", b"a")]]
    assert _hidden(tmp_path / "new", *linked, [file(b".wh.b")]) == []
    assert _hidden(tmp_path / "old", *linked, [file(b".wh.a")]) == []
    assert _hidden(tmp_path / "all", *linked, [file(b".wh.a")], [file(b".wh.b")]) == [Hidden(9, b"/a", 0, 3, "removed")]


def test_through_a_symlink(tmp_path: Path) -> None:
    assert _hidden(tmp_path, [*BASE, symlink(b"l", b"d")], [file(b"l/a", b"new")]) == [
        Hidden(10, b"/d/a", 0, 1, "replaced")
    ]


def test_twice_in_one_layer_is_hidden_without_a_path(tmp_path: Path) -> None:
    with _opened(tmp_path / "layout", [[file(b"a", b"12345"), file(b"a", b"123")]]) as image:
        found = waste(image)
    assert (found.layers[0].stored, found.layers[0].hidden, found.hidden) == (8, 5, [])


def test_an_image_without_layers(tmp_path: Path) -> None:
    with _opened(tmp_path / "layout", []) as image:
        found = waste(image)
        assert (found.layers, found.hidden, found.efficiency.score) == ([], [], 1.0)
        assert duplicates(image.rootfs) == []


def test_duplicates(tmp_path: Path) -> None:
    layers = [
        [file(b"a", b"same"), file(b"b", b"same"), file(b"e"), file(b"f"), file(b"g", b"x" * 9)],
        [file(b"c", b"same"), hardlink(b"d", b"c"), file(b"h", b"x" * 9), file(b"i", b"othe")],
    ]
    read: list[int] = []
    with _opened(tmp_path / "layout", layers) as image:
        found = duplicates(image.rootfs, lambda done, total: read.append(done))
    assert found == [Duplicates(9, [b"/g", b"/h"]), Duplicates(4, [b"/a", b"/b", b"/c"])]
    assert [each.wasted for each in found] == [9, 8]
    assert read[-1] == 34


_NAMES = st.sampled_from([b"a", b"b", b"d", b"d/a", b"d/e", b"d/e/a", b"l/a"])
_MEMBER = st.one_of(
    st.builds(lambda name, size: file(name, b"x" * size), _NAMES, st.integers(0, 2000)),
    st.builds(directory, st.sampled_from([b"d", b"d/e", b"a"])),
    st.builds(file, st.sampled_from([b".wh.a", b".wh.d", b"d/.wh.a", b"d/.wh.e", b"l/.wh.a"])),
    st.builds(file, st.sampled_from([b"d/.wh..wh..opq", b".wh..wh..opq", b"d/e/.wh..wh..opq"])),
)
_LAYERS = st.lists(st.lists(_MEMBER, max_size=5), max_size=4)


def _extents(node: Node) -> set[tuple[int, int]]:
    own = {(node.extent.layer, node.extent.offset)} if node.extent else set()
    return own.union(*map(_extents, (node.children or {}).values()))


@settings(max_examples=60, deadline=None)
@given(_LAYERS, st.booleans())
def test_hidden_is_what_is_stored_and_not_in_the_merged_tree(
    tmp_path_factory: pytest.TempPathFactory, layers: list[list[bytes]], linked: bool
) -> None:
    base = [directory(b"d"), symlink(b"l", b"d"), file(b"o", b"own"), *([hardlink(b"d/a", b"o")] if linked else [])]
    with _opened(tmp_path_factory.mktemp("waste") / "layout", [base, *layers]) as image:
        found = waste(image)
        tocs = [index.toc() for index in image.indexes]
    seen = _extents(merge(tocs, lambda message: None))
    for number, toc in enumerate(tocs):
        stored = {entry.offset: entry for entry in toc if entry.kind == REGULAR and entry.size}
        assert found.layers[number].stored == sum(entry.stored for entry in stored.values())
        unseen = {offset for offset in stored if (number, offset) not in seen}
        assert found.layers[number].hidden == sum(stored[offset].stored for offset in unseen)
        # All but what the same layer replaced has an entry.
        then = _extents(merge(tocs[: number + 1], lambda message: None))
        assert sorted(each.size for each in found.hidden if each.layer == number) == sorted(
            stored[offset].stored for offset in unseen if (number, offset) in then
        )
        assert all(each.by > each.layer for each in found.hidden)


def test_rules() -> None:
    found = Efficiency(0.9, 1000, 5000)
    bounds = Rules(lowest_efficiency=0.9, highest_wasted_bytes=1000, highest_user_wasted=0.2)
    assert broken_rules(Rules(), found) == broken_rules(bounds, found) == []
    assert broken_rules(Rules(highest_hidden_bytes=10), found, 10) == []
    assert broken_rules(Rules(highest_hidden_bytes=10), found, 11) == ["11 hidden bytes are more than 10"]
    assert broken_rules(Rules(lowest_efficiency=0.95, highest_wasted_bytes=999, highest_user_wasted=0.1), found) == [
        "the efficiency 0.9000 is below 0.95",
        "1000 wasted bytes are more than 999",
        "the wasted part 0.2000 of user bytes is more than 0.1",
    ]


def test_lines_and_json(tmp_path: Path) -> None:
    with _opened(tmp_path / "layout", [BASE, [file(b"c", b"3" * 30), file(b"n\x1b", b"3" * 30)]]) as image:
        found, same = waste(image), duplicates(image.rootfs)
    headline, *lines = (line.decode() for line in waste_lines(found, same, 1, lambda name: name.replace(b"\x1b", b"?")))
    assert headline == "30 B hidden, 25.0% of the 120 B in the layers: later layers replace or remove these files"
    assert [line.split() for line in lines if "sha256" not in line and line[:3] != "  ("] == [
        [],
        ["LAYER", "DIGEST", "STORED", "HIDDEN"],
        ["120", "B", "30", "B"],
        [],
        ["as", "dive", "counts:", "efficiency", "0.7500,", "60", "B", "wasted,", "100.00%", "of", "user", "bytes"],
        [],
        ["HIDDEN", "LAYER", "BY"],
        ["30", "B", "0", "replaced", "by", "1", "/c"],
        [],
        ["DUPLICATE", "FILES"],
        ["30", "B", "/c", "/n?"],
    ]
    line = to_json(found, same, 1, ["broken"])
    assert b'"hidden":[{"path":"/c","size":30,"layer":0,"by":1,"how":"replaced"}]' in line
    assert b'"duplicates":[{"size":30,"files":[{"path":"/c"},{"path":"/n\\u001b"}]}]' in line
    assert b'"broken_rules":["broken"]' in line
    assert line.startswith(b'{"hidden_bytes":30,"stored_bytes":120,"efficiency":0.75,')
    assert list(waste_lines(found, None, 0, bytes))[-1] == b"     30 B  in 1 more"


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    with _opened(tmp_path / "layout", [BASE, [file(b"c", b"3" * 30), file(b"d", b"3" * 30)]]) as image:
        waste(image, lambda *how_far: told.append(how_far))
        duplicates(image.rootfs, lambda *how_far: told.append(how_far))
    assert told[3] == (told[3][1],) * 2
    assert told[-1] == (60, 60)


def test_of_many_files_that_are_the_same_some_are_named() -> None:
    same = [Duplicates(2, [b"/%d" % number for number in range(7)])]
    found = Waste(Efficiency(1.0, 0, 0), [], [])
    assert list(waste_lines(found, same, 1, bytes))[-1] == b"     12 B  /0  /1  /2  /3  and 3 more"
    assert b"/6" in to_json(found, same, 1, [])
