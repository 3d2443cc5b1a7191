"""Trees of changes on top of each other are the merged tree as of each layer; what differs between two is shown."""

import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocifs.image.opening import Image, open_image
from ocifs.image.rootfs import Rootfs
from ocifs.report.overlay import Overlay, Sizes, Stack, search
from tests import images
from tests.tars import directory, file, tar

Attributes = tuple[int, int, int, int, int, int]


def overlay_of(image: Image) -> Overlay:
    return Overlay([image.changes(number) for number in range(len(image.resolved.layers))])


def attributes(rootfs: Rootfs, nid: int) -> Attributes:
    inode = rootfs.tree.inode(nid)
    size = 0 if inode.mode & 0o40000 else inode.size  # that of a directory is how its names are stored
    return inode.mode, inode.uid, inode.gid, inode.mtime_ns, size, inode.layer


def merged(rootfs: Rootfs) -> dict[bytes, Attributes]:
    return {path: attributes(rootfs, nid) for path, nid in rootfs.tree.walk(rootfs.root) if path}


def stacked(overlay: Overlay, before: Stack, after: Stack) -> dict[bytes, Attributes]:
    return {
        path: attributes(overlay.rootfs(entry.after), entry.after[-1][1])
        for path, entry in overlay.walk(before, after)
        if entry.after
    }


def changes(overlay: Overlay, before: int, after: int) -> dict[str, str]:
    """Return what layers changed, of files alone where a directory has changed below."""
    walk = overlay.walk(overlay.root(before), overlay.root(after))
    return {path.decode(errors="replace"): entry.change for path, entry in walk if entry.change != "unchanged"}


def test_it_is_the_tree_as_of_each_layer(layered: Image) -> None:
    overlay = overlay_of(layered)
    for count in range(1, 4):
        roots = overlay.root(max(1, count - 1)), overlay.root(count)
        assert stacked(overlay, *roots) == merged(layered.as_of(count - 1))
        assert list(stacked(overlay, *roots)) == list(merged(layered.as_of(count - 1)))


def test_what_a_layer_changes(layered: Image) -> None:
    assert changes(overlay_of(layered), 1, 2) == {
        "etc": "changed",
        "etc/.dotted": "added",
        "etc/issue": "changed",
        "etc/lib": "added",
        "gone": "removed",
        "gone/deep": "removed",
        "gone/deep/file": "removed",
        "tree": "changed",
        "tree/leaf": "removed",
        "usr": "changed",
        "usr/lib": "changed",
        "usr/lib/new": "added",
    }


def test_what_all_layers_change_in_the_base(layered: Image) -> None:
    overlay = overlay_of(layered)
    found = changes(overlay, 1, 3)
    assert found["gone"] == "changed"
    assert found["gone/deep"] == "removed"
    assert found["etc/issue"] == "removed"
    assert found["doc/one"] == "removed"
    assert found["doc/two"] == "changed"
    assert found["null"] == "added"
    assert changes(overlay, 1, 1) == {}


def test_bytes_can_be_read_of_what_is_there_and_of_what_was(layered: Image) -> None:
    overlay = overlay_of(layered)
    entries = dict(overlay.walk(overlay.root(2), overlay.root(3)))
    for path, data in (
        (b"doc/two", b"two again"),
        (b"doc/one", b"1"),
        (b"etc/issue", b"middle!"),
        (b"tree", b"now a file"),
    ):
        stack = entries[path].shown
        assert overlay.rootfs(stack).read(stack[-1][1], 100, 0) == data


def test_sizes_are_those_of_files_below(layered: Image) -> None:
    overlay = overlay_of(layered)
    before, after = overlay.root(1), overlay.root(2)
    sizes = Sizes(overlay)
    assert sizes.of(after) is None
    sizes.add_up(before, after, lambda: False)
    found = {path: sizes.of(entry.shown) for path, entry in overlay.walk(before, after)}
    assert found[b"usr/lib"] == 8000  # a hard link once
    assert found[b"gone"] == 4
    assert found[b"gone/deep/file"] == 4
    assert sizes.of(after) == sum(
        size or 0 for path, size in found.items() if b"/" not in path and path != b"gone" and path not in {b"pipe"}
    )


def test_what_is_told_to_stop_stops(layered: Image) -> None:
    overlay = overlay_of(layered)
    sizes = Sizes(overlay)
    sizes.add_up(overlay.root(1), overlay.root(2), lambda: True)
    assert sizes.of(overlay.root(2)) is None
    assert search(overlay, overlay.root(1), overlay.root(1), re.compile(b""), 10, lambda: True).matches == 0


def test_a_search_gives_what_fits_and_the_way_there(layered: Image) -> None:
    overlay = overlay_of(layered)
    found = search(overlay, overlay.root(2), overlay.root(3), re.compile(rb"/lib\.so"), 100, lambda: False)
    assert found.paths == {b"usr", b"usr/lib", b"usr/lib/lib.so", b"usr/lib/lib.so.1"}
    assert (found.matches, found.whole) == (2, True)
    removed = search(overlay, overlay.root(1), overlay.root(2), re.compile(b"deep"), 100, lambda: False)
    assert b"gone/deep/file" in removed.paths


def test_a_search_of_too_much_ends(layered: Image) -> None:
    overlay = overlay_of(layered)
    found = search(overlay, overlay.root(3), overlay.root(3), re.compile(b""), 3, lambda: False)
    assert (len(found.paths), found.whole) == (3, False)


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
MEMBERS = st.one_of(
    PATHS.map(lambda path: file(path.encode(), path.encode())),
    PATHS.map(lambda path: directory(path.encode(), mode=0o700)),
    st.tuples(PATHS, NAMES).map(lambda made: file(f"{made[0]}/.wh.{made[1]}".encode())),
    NAMES.map(lambda name: file(f".wh.{name}".encode())),
    PATHS.map(lambda path: file(f"{path}/.wh..wh..opq".encode())),
)


@settings(max_examples=60, deadline=None)
@given(layers=st.lists(st.lists(MEMBERS, max_size=5), min_size=2, max_size=4))
def test_any_layers_make_the_merged_tree(
    tmp_path_factory: pytest.TempPathFactory, layers: Sequence[list[bytes]]
) -> None:
    where = tmp_path_factory.mktemp("any") / "layout"
    layout = images.write_layout(where, images.Image(tuple(images.Layer(tar(each), "tar") for each in layers)))
    with open_image(layout) as image:
        overlay = overlay_of(image)
        trees = [merged(image.as_of(number)) for number in range(len(layers))]
        for before in range(1, len(layers) + 1):
            for after in range(before, len(layers) + 1):
                roots = overlay.root(before), overlay.root(after)
                assert stacked(overlay, *roots) == trees[after - 1]
                told = {path: entry.change for path, entry in overlay.walk(*roots)}
                lower, upper = set(trees[before - 1]), set(trees[after - 1])
                assert {path for path, change in told.items() if change == "added"} == upper - lower
                assert {path for path, change in told.items() if change == "removed"} == lower - upper
