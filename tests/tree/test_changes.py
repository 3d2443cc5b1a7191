"""What a layer changes, as a tree; laid over each other as overlayfs does it, these trees are the merged tree."""

import stat
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocifs.errors import InvalidImageError
from ocifs.toc import CHARACTER, DIRECTORY, HARDLINK, REGULAR, SYMLINK, Entry
from ocifs.tree.changes import OPAQUE_XATTR, WHITEOUT_XATTR
from ocifs.tree.merge import changes, merge
from ocifs.tree.node import Node


def entry(path: str, kind: int = REGULAR, linkname: str = "", mtime: int = 0) -> Entry:
    return Entry(kind, path.encode(), 0o644, 0, 0, mtime, linkname=linkname.encode())


def entries(*paths: str) -> list[Entry]:
    """Return entries: `a/` a directory, `a -> b` a symlink, `a = b` a hard link, else a file."""
    made = []
    for path in paths:
        if " -> " in path:
            name, target = path.split(" -> ")
            made.append(entry(name, SYMLINK, target))
        elif " = " in path:
            name, target = path.split(" = ")
            made.append(entry(name, HARDLINK, target))
        else:
            made.append(entry(path, DIRECTORY if path.endswith("/") else REGULAR))
    return made


def shown(root: Node) -> set[str]:
    """Return a line for each path: `N` its layer, `-` before a whiteout, `!` after an opaque directory."""
    lines = set()
    todo = [("", root)]
    while todo:
        path, node = todo.pop()
        removed = "-" if WHITEOUT_XATTR in node.xattrs else ""
        opaque = "!" if OPAQUE_XATTR in node.xattrs else ""
        if path or opaque:
            lines.add(f"{removed}{path}{'/' if node.is_dir else ''}{opaque} {node.layer}")
        todo += [(f"{path}/{name.decode()}".lstrip("/"), child) for name, child in (node.children or {}).items()]
    return lines


BASE = entries("a/", "a/x", "a/sub/", "a/sub/y", "top", "link -> a", "b/", "b/z")


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ([], set()),
        (["new"], {"new 1"}),
        (["a/x"], {"a/ 0", "a/x 1"}),
        (["link/x"], {"a/ 0", "a/x 1"}),
        (["a/"], {"a/ 1"}),
        (["p/q/r"], {"p/ 1", "p/q/ 1", "p/q/r 1"}),
        ([".wh.top"], {"-top 1"}),
        ([".wh.never"], set()),
        ([".wh.a"], {"-a 1"}),
        (["a/.wh.x", ".wh.a"], {"-a 1"}),
        (["a/sub/.wh.y"], {"a/ 0", "a/sub/ 0", "-a/sub/y 1"}),
        (["link/.wh.x"], {"a/ 0", "-a/x 1"}),
        ([".wh.top", "top"], {"top 1"}),
        (["top", ".wh.top"], {"top 1"}),
        ([".wh.a", "a/"], {"a/! 1"}),
        ([".wh.a", "a/new"], {"a/! 1", "a/new 1"}),
        (["a/", "a/new", ".wh.a"], {"a/! 1", "a/new 1"}),
        (["a/new", ".wh.a"], {"a/! 0", "a/new 1"}),
        (["a/.wh..wh..opq"], {"a/! 0"}),
        (["a/sub/y", "a/.wh..wh..opq"], {"a/! 0", "a/sub/ 0", "a/sub/y 1"}),
        ([".wh..wh..opq", "new"], {"/! 0", "new 1"}),
        (["new/", "new/.wh..wh..opq"], {"new/ 1"}),
        (["a"], {"a 1"}),
        (["a/x/y"], {"a/ 0", "a/x/ 1", "a/x/y 1"}),
        (["again = top"], {"again 0"}),
        (["a/sub/new", "a", "a/"], {"a/! 1"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_changes(layer: list[str], expected: set[str]) -> None:
    *_, upper = changes([BASE, entries(*layer)], lambda message: None)
    assert shown(upper) == expected


def test_the_base_is_all_change() -> None:
    (base,) = changes([BASE], pytest.fail)
    assert shown(base) == shown(merge([BASE], pytest.fail))


def test_a_device_0_0_of_the_image_is_no_whiteout() -> None:
    hostile = Entry(CHARACTER, b"null", 0, 0, 0, 0, xattrs={WHITEOUT_XATTR: b"", OPAQUE_XATTR: b"y"})
    (only,) = changes([[hostile]], pytest.fail)
    assert shown(only) == {"null 0"}


def test_the_merged_tree_is_left_as_it_is() -> None:
    first, second = changes([BASE, entries(".wh.a", "a/new")], pytest.fail)
    assert shown(first) == shown(merge([BASE], pytest.fail))
    assert shown(second) == {"a/! 1", "a/new 1"}


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
MARKED = st.builds(lambda path, name: "/".join([*path.split("/")[:-1], name]), PATHS, st.sampled_from(
    [".wh.a", ".wh.b", ".wh.c", ".wh..wh..opq"]
))  # fmt: skip
LAYER = st.lists(
    st.one_of(
        PATHS,
        PATHS.map(lambda path: path + "/"),
        MARKED,
        st.builds(lambda path, target: f"{path} -> {target}", PATHS, PATHS),
        st.builds(lambda path, target: f"{path} = {target}", PATHS, PATHS),
    ),
    max_size=6,
)


def overlay(layers: Iterable[Node]) -> dict[str, int]:
    """Lay trees of changes over each other; return path to layer."""
    merged: dict[str, int] = {}

    def drop_below(path: str) -> None:
        for other in [name for name in merged if name.startswith(f"{path}/".lstrip("/")) and name != path]:
            del merged[other]

    def visit(path: str, node: Node) -> None:
        if WHITEOUT_XATTR in node.xattrs:
            merged.pop(path, None)
            drop_below(path)
            return
        if not node.is_dir or OPAQUE_XATTR in node.xattrs:
            drop_below(path)
        merged[path] = node.layer if node.is_dir else id(node)
        for name, child in (node.children or {}).items():
            visit(f"{path}/{name.decode()}".lstrip("/"), child)

    for root in layers:
        visit("", root)
    return merged


@given(st.lists(LAYER, min_size=1, max_size=4))
def test_changes_laid_over_each_other_are_the_merged_tree(layers: list[list[str]]) -> None:
    tocs = [entries(*layer) for layer in layers]
    warnings: list[str] = []
    passing = changes(tocs, warnings.append)
    try:
        merged = merge(tocs, warnings.append)
    except InvalidImageError:
        with pytest.raises(InvalidImageError):
            list(passing)
        return
    trees = list(passing)

    def paths(root: Node) -> dict[str, tuple[int, int]]:
        found = {}
        todo = [("", root)]
        while todo:
            path, node = todo.pop()
            found[path] = (stat.S_IFMT(node.mode), node.layer)
            todo += [(f"{path}/{name.decode()}".lstrip("/"), child) for name, child in (node.children or {}).items()]
        return found

    laid = overlay(trees)
    assert laid.keys() == paths(merged).keys()
    for path, (kind, layer) in paths(merged).items():
        if kind == stat.S_IFDIR:
            assert laid[path] == layer
