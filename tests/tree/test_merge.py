import stat
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocifs.errors import InvalidImageError, LimitError
from ocifs.limits import Limits
from ocifs.reader import BytesReader
from ocifs.toc import CHARACTER, DIRECTORY, HARDLINK, REGULAR, SYMLINK, Entry, ReaderForward, scan
from ocifs.tree.merge import merge
from ocifs.tree.node import Node
from tests.tars import directory, file, hardlink, header, long_name, pax, symlink, tar

BASE = [
    directory(b"a", 0o700, uid=5, mtime=7),
    file(b"a/x", b"X"),
    directory(b"a/sub"),
    file(b"a/sub/y", b"Y"),
    file(b"top", b"TOP"),
    directory(b"real"),
    file(b"real/r", b"R"),
    symlink(b"link", b"real"),
    symlink(b"abslink", b"/real"),
    file(b"plain", b"P"),
    hardlink(b"plainhl", b"plain"),
]
TREE = {
    "a": "dir",
    "a/x": "X",
    "a/sub": "dir",
    "a/sub/y": "Y",
    "top": "TOP",
    "real": "dir",
    "real/r": "R",
    "link": "-> real",
    "abslink": "-> /real",
    "plain": "P",
    "plainhl": "P",
}
A = ("a/x", "a/sub", "a/sub/y")


def walk(root: Node) -> Iterator[tuple[str, Node]]:
    todo = [("", root)]
    while todo:
        path, node = todo.pop()
        for name, child in (node.children or {}).items():
            assert not child.is_dir or (child.parent is node and child.name == name)
            todo.append((f"{path}/{name.decode()}".lstrip("/"), child))
            yield todo[-1]


def build(*layers: list[bytes]) -> tuple[Node, dict[str, str], list[str]]:
    """Return the root, what is at each path, and the warnings."""
    warnings: list[str] = []
    blobs = [tar(members) for members in layers]
    entries = [scan(ReaderForward(BytesReader(blob)), warn=warnings.append) for blob in blobs]
    root = merge(entries, warnings.append)

    def show(node: Node) -> str:
        if node.is_dir:
            return "dir"
        if stat.S_ISLNK(node.mode):
            assert node.size == len(node.target)
            return f"-> {node.target.decode()}"
        if node.extent is None:
            return ""
        return blobs[node.extent.layer][node.extent.offset :][: node.size].decode()

    return root, {path: show(node) for path, node in walk(root)}, warnings


def nlink(root: Node, path: str) -> int:
    nodes = dict(walk(root))
    return Counter(map(id, nodes.values()))[id(nodes[path])]


# Each row: the layer applied over BASE, the paths that change, those that go, and a word of the only warning.
ROWS: dict[str, tuple[list[bytes], dict[str, str], tuple[str, ...], str]] = {
    "new file, then its whiteout": ([file(b"a/x", b"NEW"), file(b"a/.wh.x")], {"a/x": "NEW"}, (), ""),
    "whiteout, then the new file": ([file(b"a/.wh.x"), file(b"a/x", b"NEW")], {"a/x": "NEW"}, (), ""),
    "whiteout of a directory, then a new one": (
        [file(b".wh.a"), directory(b"a"), file(b"a/new", b"N")],
        {"a/new": "N"},
        A,
        "",
    ),
    "new directory, then its whiteout": (
        [directory(b"a"), file(b"a/new", b"N"), file(b".wh.a")],
        {"a/new": "N"},
        A,
        "",
    ),
    "opaque first": ([directory(b"a"), file(b"a/.wh..wh..opq"), file(b"a/new", b"N")], {"a/new": "N"}, A, ""),
    "opaque last": ([directory(b"a"), file(b"a/new", b"N"), file(b"a/.wh..wh..opq")], {"a/new": "N"}, A, ""),
    "opaque over an implied directory": (
        [file(b"a/sub/new", b"N"), file(b"a/.wh..wh..opq")],
        {"a/sub/new": "N"},
        ("a/x", "a/sub/y"),
        "",
    ),
    "opaque without a directory entry": ([file(b"a/.wh..wh..opq")], {}, A, ""),
    "opaque in a missing directory": ([file(b"no/such/.wh..wh..opq")], {}, (), ""),
    "opaque under a file": ([file(b"top/.wh..wh..opq")], {}, (), ""),
    "opaque at the root": ([file(b"new", b"N"), file(b".wh..wh..opq")], {"new": "N"}, tuple(TREE), ""),
    "opaque twice": (
        [file(b"a/.wh..wh..opq"), file(b"a/sub/n", b"N"), file(b"a/.wh..wh..opq"), file(b".wh.a")],
        {"a/sub/n": "N"},
        ("a/x", "a/sub/y"),
        "",
    ),
    "opaque through a symlink": ([file(b"link/.wh..wh..opq")], {}, ("real/r",), ""),
    "whiteout of nothing": ([file(b".wh.nothere"), file(b"no/such/.wh.x")], {}, (), ""),
    "whiteout under a file": ([file(b"top/.wh.z")], {}, (), ""),
    "whiteout through a symlink": ([file(b"link/.wh.r")], {}, ("real/r",), ""),
    "whiteout of a symlink": ([file(b".wh.link")], {}, ("link",), ""),
    "whiteout of a directory and in it": ([file(b".wh.a"), file(b"a/.wh.x")], {}, ("a", *A), ""),
    "whiteout typed directory": ([directory(b".wh.a/")], {}, ("a", *A), "whiteout"),
    "whiteout with data": ([file(b"a/.wh.x", b"data")], {}, ("a/x",), "whiteout"),
    "whiteout name as a parent": (
        [file(b".wh.a/file", b"F")],
        {".wh.a": "dir", ".wh.a/file": "F"},
        (),
        "whiteout's name",
    ),
    "a name that ends like opaque": (
        [file(b"a/not.a.wh..wh..opq", b"N")],
        {"a/not.a.wh..wh..opq": "N"},
        (),
        "",
    ),
    "file twice": ([file(b"f", b"1"), file(b"f", b"2")], {"f": "2"}, (), "twice"),
    "file, then directory": ([file(b"f"), directory(b"f")], {"f": "dir"}, (), "twice"),
    "directory, then file": ([directory(b"f"), file(b"f", b"F")], {"f": "F"}, (), "twice"),
    "directory entry after its content": ([file(b"d/f", b"F"), directory(b"d")], {"d": "dir", "d/f": "F"}, (), ""),
    "directory over a symlink": (
        [directory(b"link/"), file(b"link/n", b"N")],
        {"link": "dir", "link/n": "N"},
        (),
        "",
    ),
    "file through a symlink": ([file(b"link/n", b"N")], {"real/n": "N"}, (), ""),
    "file through an absolute symlink": ([file(b"abslink/n", b"N")], {"real/n": "N"}, (), ""),
    "file through a symlink, then its whiteout": (
        [file(b"link/n", b"N"), file(b".wh.link"), file(b".wh.real")],
        {"real/n": "N"},
        ("link", "real/r"),
        "",
    ),
    "symlink over a directory": ([symlink(b"a", b"real")], {"a": "-> real"}, A, ""),
    "file over a directory": ([file(b"a", b"F")], {"a": "F"}, A, ""),
    "directory over a file": ([directory(b"top")], {"top": "dir"}, (), ""),
    "implied directory over a file": (
        [file(b"top/k", b"K")],
        {"top": "dir", "top/k": "K"},
        (),
        "below 'top', which is a file",
    ),
    "implied directory over a file of its own layer": (
        [file(b"f", b"F"), file(b"f/k", b"K")],
        {"f": "dir", "f/k": "K"},
        (),
        "below 'f', which is a file",
    ),
    "implied directory over a file that a symlink leads to": (
        [symlink(b"l", b"real/r"), file(b"l/k", b"K")],
        {"l": "-> real/r", "real/r": "dir", "real/r/k": "K"},
        (),
        "below 'r', which is a file",
    ),
    "implied directory over a FIFO": (
        [header(b"pipe", flag=b"6"), file(b"pipe/k", b"K")],
        {"pipe": "dir", "pipe/k": "K"},
        (),
        "below 'pipe', which is a file",
    ),
    "implied directory over a hard link": (
        [file(b"plain/k", b"K")],
        {"plain": "dir", "plain/k": "K"},
        (),
        "below 'plain', which is a file",
    ),
    "implied directory, then its entry": ([file(b"p/q", b"Q"), directory(b"p")], {"p": "dir", "p/q": "Q"}, (), ""),
    "implied directory, then a file": (
        [file(b"p/q", b"Q"), file(b"p", b"F")],
        {"p": "F"},
        (),
        "replaces a directory in which this layer has put files",
    ),
    "implied directory, then a symlink": (
        [file(b"a/new", b"N"), symlink(b"a", b"real")],
        {"a": "-> real"},
        A,
        "replaces a directory in which this layer has put files",
    ),
    "implied directory, then a hard link": (
        [file(b"p/q", b"Q"), hardlink(b"p", b"top")],
        {"p": "TOP"},
        (),
        "replaces a directory in which this layer has put files",
    ),
    "missing parents": ([file(b"p/q/r", b"R")], {"p": "dir", "p/q": "dir", "p/q/r": "R"}, (), ""),
    "parents through a dangling symlink": (
        [symlink(b"dang", b"gone/deep"), file(b"dang/x", b"X")],
        {"dang": "-> gone/deep", "gone": "dir", "gone/deep": "dir", "gone/deep/x": "X"},
        (),
        "",
    ),
    "parents that a symlink leaves again": (
        [symlink(b"l", b"gone/../real/./gone/top/../.."), file(b"l/n", b"N"), symlink(b"m", b"top/../real/new/../x")],
        {"l": "-> gone/../real/./gone/top/../..", "m": "-> top/../real/new/../x", "real/n": "N"},
        (),
        "",
    ),
    "a symlink that bends the path just taken": (
        [symlink(b"l", b"real/n/.."), file(b"l/a", b"A"), symlink(b"l/n", b"/a/sub"), file(b"l/b", b"B")],
        {"l": "-> real/n/..", "real/a": "A", "real/n": "-> /a/sub", "a/b": "B"},
        (),
        "",
    ),
    "a hard link that bends the path just taken": (
        [symlink(b"l", b"real/n/.."), symlink(b"s", b"/a/sub"), file(b"l/a"), hardlink(b"l/n", b"s"), file(b"l/b")],
        {"l": "-> real/n/..", "s": "-> /a/sub", "real/a": "", "real/n": "-> /a/sub", "a/b": ""},
        (),
        "",
    ),
    "a symlink on the path just taken becomes a file": (
        [symlink(b"l", b"real/n/../real"), symlink(b"real/n", b"/a"), file(b"l/x", b"X"), file(b"l/n"), file(b"l/y")],
        {"l": "-> real/n/../real", "real/x": "X", "real/n": "", "real/real": "dir", "real/real/y": ""},
        (),
        "occurs twice",
    ),
    "a symlink on the path just taken leads elsewhere": (
        [file(b"link/x", b"X"), symlink(b"link", b"a"), file(b"link/y", b"Y")],
        {"real/x": "X", "link": "-> a", "a/y": "Y"},
        (),
        "",
    ),
    "whiteout through what a symlink leaves again": (
        [symlink(b"l", b"gone/../real"), file(b"l/.wh.r")],
        {"l": "-> gone/../real"},
        ("real/r",),
        "",
    ),
    "hard link through what a symlink leaves again": (
        [symlink(b"l", b"top/../real/.."), hardlink(b"hl", b"l/top")],
        {"l": "-> top/../real/..", "hl": "TOP"},
        (),
        "",
    ),
    "hard link to a lower file": ([hardlink(b"hl", b"top")], {"hl": "TOP"}, (), ""),
    "hard link to a symlink": ([hardlink(b"hl", b"link")], {"hl": "-> real"}, (), ""),
    "hard link through a symlink": ([hardlink(b"hl", b"link/r")], {"hl": "R"}, (), ""),
    "hard link, then its target anew": (
        [hardlink(b"hl", b"top"), file(b"top", b"NEW")],
        {"hl": "TOP", "top": "NEW"},
        (),
        "",
    ),
    "one of two hard links replaced": ([file(b"plain", b"NEW")], {"plain": "NEW"}, (), ""),
    "hard link, then a whiteout of its target": (
        [hardlink(b"hl", b"top"), file(b".wh.top")],
        {"hl": "TOP"},
        ("top",),
        "",
    ),
    "above the root": ([file(b"../../esc", b"E")], {"esc": "E"}, (), "above the root"),
    "dot-dot is lexical": ([file(b"link/../viadd", b"V")], {"viadd": "V"}, (), ""),
    "absolute name": ([file(b"/absf", b"F")], {"absf": "F"}, (), ""),
    "empty and dot names": (
        [file(b"a//x", b"1"), file(b"./a/./sub/./y", b"2")],
        {"a/x": "1", "a/sub/y": "2"},
        (),
        "",
    ),
    "regular file with a trailing slash": ([file(b"tsf/", b"F")], {"tsf": "F"}, (), ""),
    "AUFS metadata": ([directory(b".wh..wh.plnk"), file(b"x", b"X")], {"x": "X"}, (), "AUFS"),
    "AUFS metadata, below": ([file(b".wh..wh.plnk/1.2", b"P")], {}, (), "AUFS"),
}


@pytest.mark.parametrize("row", ROWS)
def test_row(row: str) -> None:
    layer, changed, gone, warning = ROWS[row]
    _, tree, warnings = build(BASE, layer)
    assert tree == {path: what for path, what in TREE.items() if path not in gone} | changed
    assert len(warnings) == bool(warning)
    assert all(warning in text and text.startswith("layer 1, entry '") for text in warnings)


LOOP = [symlink(b"l1", b"l2"), symlink(b"l2", b"/l1")]


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ([*LOOP, file(b"l1/x")], ["l1/x", "40 symlinks"]),
        ([*LOOP, file(b"l1/.wh.x")], ["l1/.wh.x", "40 symlinks"]),
        ([hardlink(b"hl", b"missing")], ["'hl'", "'missing'", "no such file"]),
        ([hardlink(b"hl", b"later"), file(b"later")], ["'hl'", "'later'", "no such file"]),
        ([hardlink(b"top", b"top")], ["'top': a hard link to itself"]),
        ([hardlink(b"new", b"./x/../new")], ["'new': a hard link to itself"]),
        ([hardlink(b"real/r", b"link/r")], ["'real/r': a hard link to itself"]),
        ([hardlink(b"a", b"a/x")], ["'a'", "'a/x'", "no such file"]),
        ([hardlink(b"hl", b"a")], ["'hl'", "'a'", "directory"]),
        ([hardlink(b"hl", b".")], ["'hl'", "'.'", "no such file"]),
        ([hardlink(b"hl", b"top/x")], ["'hl'", "'top/x'", "no such file"]),
        ([file(b".wh.top"), hardlink(b"hl", b"top")], ["'hl'", "'top'", "no such file"]),
        ([symlink(b".", b"a")], ["'.'", "root"]),
        ([file(b"/")], ["'/'", "root"]),
        ([hardlink(b"a/..", b"top")], ["'a/..'", "root"]),
        ([file(b".wh.")], [".wh.", "names no file"]),
        ([file(b".wh..")], [".wh..", "names no file"]),
        ([file(b"a/.wh...")], [".wh...", "names no file"]),
    ],
)
def test_refused(layer: list[bytes], words: list[str]) -> None:
    with pytest.raises(InvalidImageError) as caught:
        build(BASE, layer)
    assert all(word in str(caught.value) for word in ["layer 1, entry", *words])


def attributes(node: Node) -> tuple[int, int, int, int, int]:
    return node.mode & 0o7777, node.uid, node.gid, node.mtime_ns, node.layer


def test_bare_root() -> None:
    root, tree, _ = build()
    assert stat.S_ISDIR(root.mode)
    assert attributes(root) == (0o755, 0, 0, 0, 0)
    assert tree == {}


def test_root_entry() -> None:
    root, tree, _ = build(BASE, [directory(b"./", 0o700, uid=3)])
    assert attributes(root) == (0o700, 3, 0, 0, 1)
    assert tree == TREE


def test_attributes_of_directories() -> None:
    root, _, _ = build(BASE, [file(b"a/x"), file(b"p/x"), file(b"real/.wh.r"), directory(b"real", 0o711, gid=2)])
    nodes = dict(walk(root))
    assert attributes(nodes["a"]) == (0o700, 5, 0, 7 * 10**9, 0)  # implied: inherited
    assert attributes(nodes["p"]) == (0o755, 0, 0, 0, 1)  # implied: made
    assert attributes(nodes["real"]) == (0o711, 0, 2, 0, 1)  # given
    assert attributes(build(BASE, [file(b"a/.wh..wh..opq")])[0].children[b"a"]) == (0o700, 5, 0, 7 * 10**9, 0)  # type: ignore[index]


def test_attributes_of_files() -> None:
    members = [
        pax(
            {b"SCHILY.xattr.user.a": b"1", b"SCHILY.xattr.security.selinux": b"2", b"SCHILY.xattr.user.overlay.x": b"3"}
        )
        + file(b"suid", b"S", mode=0o4755, uid=1, gid=2, mtime=3),
        pax({b"SCHILY.xattr.trusted.overlay.opaque": b"y", b"SCHILY.xattr.security.capability": b"c"}) + file(b"cap"),
        header(b"null", flag=b"3", major=1, minor=3),
        header(b"pipe", flag=b"6"),
        symlink(b"s", b"target"),
    ]
    nodes = dict(walk(build(members)[0]))
    assert attributes(nodes["suid"]) == (0o4755, 1, 2, 3 * 10**9, 0)
    assert nodes["suid"].xattrs == {b"user.a": b"1"}
    assert nodes["cap"].xattrs == {b"security.capability": b"c"}
    assert nodes["cap"].extent is None
    assert (nodes["null"].mode, nodes["null"].rdev) == (stat.S_IFCHR | 0o644, (1, 3))
    assert nodes["pipe"].mode == stat.S_IFIFO | 0o644
    assert nodes["s"].mode == stat.S_IFLNK | 0o777


@pytest.mark.parametrize(
    ("layer", "links"),
    [
        ([], {"plain": 2, "plainhl": 2}),
        ([hardlink(b"hl", b"top")], {"hl": 2, "top": 2}),
        ([hardlink(b"hl", b"plain")], {"hl": 3, "plain": 3}),
        ([hardlink(b"hl", b"top"), file(b"top", b"NEW")], {"hl": 1, "top": 1}),
        ([file(b"plain", b"NEW")], {"plain": 1, "plainhl": 1}),
        ([file(b".wh.plain")], {"plainhl": 1}),
        ([hardlink(b"plainhl", b"plain")], {"plain": 2, "plainhl": 2}),
        ([hardlink(b"hl", b"link/r")], {"hl": 2, "real/r": 2}),
    ],
)
def test_hard_links_share_an_inode(layer: list[bytes], links: dict[str, int]) -> None:
    root, _, _ = build(BASE, layer)
    assert {path: nlink(root, path) for path in links} == links


def test_hard_link_header_is_ignored() -> None:
    nodes = dict(walk(build(BASE, [hardlink(b"hl", b"top", mode=0o777, uid=9)])[0]))
    assert attributes(nodes["hl"]) == (0o644, 0, 0, 0, 0)


def test_whiteout_then_again_in_a_third_layer() -> None:
    third = [directory(b"a", 0o711), file(b"a/new", b"N")]
    for layers in ([[file(b".wh.a")], third], [[file(b".wh.a"), *third]]):
        root, tree, _ = build(BASE, *layers)
        assert tree == {path: what for path, what in TREE.items() if path not in A} | {"a/new": "N"}
        assert attributes(dict(walk(root))["a"])[:2] == (0o711, 0)


def test_whiteout_of_a_symlink_on_the_path_just_taken() -> None:
    layer = [symlink(b"l", b"real/n/../real"), file(b"l/x", b"X"), file(b"l/.wh.n"), file(b"l/y", b"Y")]
    _, tree, _ = build([directory(b"a"), symlink(b"real/n", b"/a")], layer)
    assert tree == {
        "a": "dir",
        "l": "-> real/n/../real",
        "real": "dir",
        "real/x": "X",
        "real/real": "dir",
        "real/real/y": "Y",
    }


def test_same_layer_twice() -> None:
    layer = [file(b"a/new", b"N"), file(b".wh.a")]
    _, tree, _ = build(BASE, layer, [file(b".wh.a")], layer)
    assert {path for path in tree if path.startswith("a")} == {"a", "a/new", "abslink"}


def test_deep_tree() -> None:
    deep = b"d/" * 1000
    members = [long_name(deep + b"l") + symlink(b"l", b"/s"), symlink(b"s", b"."), symlink(b"j", b"/" + b"d/" * 40)]
    members += [long_name(deep + b"f") + file(b"f"), long_name(deep * 2 + b"f") + file(b"f"), file(b"j/g")]
    _, tree, _ = build(members, [directory(b"new"), file(b".wh..wh..opq")])
    assert set(tree) == {"new"}
    _, tree, _ = build(members)
    assert max(path.count("/") for path in tree) == 2000


def test_long_symlinks_in_a_chain() -> None:
    target = b"/".join([b"."] * 2000)
    chain = [Entry(SYMLINK, b"l%d" % n, 0, 0, 0, 0, linkname=target + b"/l%d" % (n + 1)) for n in range(39)]
    chain += [Entry(DIRECTORY, b"l39", 0, 0, 0, 0)]
    files = (Entry(REGULAR, b"l0/f", 0, 0, 0, 0) for _ in range(10**6))
    with pytest.raises(LimitError, match="symlinks"):
        merge([chain, files], list[str]().append, Limits(symlink_steps=1 << 19))


def test_whiteouts_do_not_search_again() -> None:
    own = [Entry(REGULAR, b"d/%d" % n, 0, 0, 0, 0) for n in range(20_000)]
    whiteouts = [Entry(REGULAR, name, 0, 0, 0, 0) for name in (b".wh.d", b"d/.wh..wh..opq", b".wh..wh..opq")]
    root = merge([[Entry(DIRECTORY, b"d", 0, 0, 0, 0)], own + whiteouts * 20_000], list[str]().append)
    assert sum(1 for _ in walk(root)) == 20_001


# The model: a dict of whole paths and a set of the paths this layer gave. No tree, no resolution.

NAMES = st.sampled_from([b"a", b"b", b"c"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(tuple)
Path = tuple[bytes, ...]
Model = dict[Path, tuple[int, int]]
"""(kind, serial number) at each path; hard links share the number."""


@st.composite
def stacks(draw: st.DrawFn) -> list[list[Entry]]:
    layers: list[list[Entry]] = []
    model: Model = {}
    serial = 0
    for _ in range(draw(st.integers(1, 3))):
        layers.append([])
        upper: set[Path] = set()
        for _ in range(draw(st.integers(0, 8))):
            serial += 1
            path = draw(PATHS)
            what = draw(st.sampled_from(["file", "device", "dir", "dir", "link", "whiteout", "opaque"]))
            kind = {"file": REGULAR, "device": CHARACTER, "dir": DIRECTORY, "link": HARDLINK}.get(what, REGULAR)
            linkname = b""
            if what == "whiteout":
                path = (*path[:-1], b".wh." + path[-1])
            elif what == "opaque":
                path = (*path[:-1], b".wh..wh..opq")
            elif what == "link":
                trial = dict(model)
                give(trial, set(), path, (REGULAR, 0))
                targets = [name for name, (kind, number) in trial.items() if kind != DIRECTORY and name != path]
                if not targets:
                    continue
                linkname = b"/".join(draw(st.sampled_from(sorted(targets))))
            entry = Entry(kind, b"/".join(path), 0o600, serial, 0, 0, linkname=linkname)
            layers[-1].append(entry)
            apply(model, upper, entry)
    return layers


def give(model: Model, upper: set[Path], path: Path, value: tuple[int, int]) -> None:
    for depth in range(1, len(path)):
        parent = path[:depth]
        upper.add(parent)
        if model.get(parent, (REGULAR, 0))[0] != DIRECTORY:
            model[parent] = (DIRECTORY, 0)
    if value[0] != DIRECTORY:
        for below in [name for name in model if name[: len(path)] == path]:
            del model[below]
    model[path] = value
    upper.add(path)


def apply(model: Model, upper: set[Path], entry: Entry) -> None:
    path = tuple(entry.path.split(b"/"))
    if path[-1].startswith(b".wh."):
        whole = path[:-1] if path[-1] == b".wh..wh..opq" else (*path[:-1], path[-1][4:])
        opaque = path[-1] == b".wh..wh..opq"
        for name in list(model):
            if name[: len(whole)] == whole and not (opaque and name == whole) and name not in upper:
                del model[name]
    elif entry.kind == HARDLINK:
        model.pop(path, None)
        target = tuple(entry.linkname.split(b"/"))
        give(model, upper, path, (REGULAR, 0))
        model[path] = model[target]
    else:
        give(model, upper, path, (entry.kind, entry.uid))


@given(stacks())
def test_merge_equals_model(layers: list[list[Entry]]) -> None:
    model: Model = {}
    for entries in layers:
        upper: set[Path] = set()
        for entry in entries:
            apply(model, upper, entry)
    kinds = {stat.S_IFREG: REGULAR, stat.S_IFCHR: CHARACTER, stat.S_IFDIR: DIRECTORY}
    root = merge(layers, list[str]().append)
    assert {
        tuple(path.encode().split(b"/")): (kinds[stat.S_IFMT(node.mode)], node.uid) for path, node in walk(root)
    } == model
