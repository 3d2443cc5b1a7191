"""Trees as tree(1) draws them."""

import json
from collections.abc import Iterator

import pytest

from ocifs.errors import NotFoundError
from ocifs.image.opening import Image
from ocifs.report.listing import unpainted
from ocifs.report.tree import Branch, Chosen, Columns, branches, to_json, tree_lines


def drawn(branch: Iterator[Branch], columns: Columns | None = None) -> list[str]:
    return [line.decode(errors="replace") for line in tree_lines(branch, lambda n: n, unpainted, columns or Columns())]


def test_a_tree(layered: Image) -> None:
    assert drawn(branches(layered.as_of(0), b"/", Chosen()))[:12] == [
        "/",
        "├── doc",
        "│   ├── one",
        "│   └── two",
        "├── etc",
        "│   ├── group",
        "│   ├── issue",
        "│   └── passwd",
        "├── gone",
        "│   └── deep",
        "│       └── file",
        "├── lib -> usr/lib",
    ]


def test_what_a_layer_changes(layered: Image) -> None:
    lines = drawn(branches(layered.changes(2), b"/", Chosen()))
    assert "├── doc (opaque)" in lines
    assert "│   └── .wh.issue" in lines
    assert drawn(branches(layered.changes(1), b"usr", Chosen())) == [
        "usr",
        "└── lib",
        "    └── new",
        "",
        "2 directories, 1 file",
    ]


@pytest.mark.parametrize(
    ("chosen", "names", "count"),
    [
        (Chosen(levels=1), ["group", "lib", "passwd"], "1 directory, 3 files"),
        (Chosen(dotted=True), [".dotted", "group", "lib", "passwd"], "1 directory, 4 files"),
        (Chosen(directories_only=True), [], "1 directory, 0 files"),
    ],
)
def test_what_is_chosen(layered: Image, chosen: Chosen, names: list[str], count: str) -> None:
    lines = drawn(branches(layered.rootfs, b"/etc", chosen))
    assert [line[4:] for line in lines[1:-2]] == names
    assert lines[-1] == count
    assert drawn(branches(layered.rootfs, b"/etc", chosen), Columns(count_files=False))[-1] == "1 directory"


def test_a_symlink_to_a_directory_counts_as_one(layered: Image) -> None:
    lines = drawn(branches(layered.rootfs, b"/", Chosen(levels=1, directories_only=True)))
    assert "├── lib -> usr/lib" in lines
    assert lines[-1] == "7 directories, 0 files"


def test_levels_end_a_deep_tree(layered: Image) -> None:
    depths = [branch.depth for branch in branches(layered.rootfs, b"/", Chosen(levels=2))]
    assert max(depths) == 2
    assert depths.count(0) == 1


def test_sizes_stand_before_names(layered: Image) -> None:
    sizes = drawn(branches(layered.rootfs, b"usr/lib", Chosen()), Columns(sizes=True))
    assert "├── [       3000]  lib.so" in sizes
    assert "└── [       5000]  new" in sizes
    assert "└── [4.9K]  new" in drawn(branches(layered.rootfs, b"usr/lib", Chosen()), Columns(human=True))


def test_a_file_is_a_tree_of_its_own(layered: Image) -> None:
    assert drawn(branches(layered.rootfs, b"/etc/passwd", Chosen())) == ["/etc/passwd", "", "0 directories, 1 file"]
    with pytest.raises(NotFoundError):
        drawn(branches(layered.rootfs, b"/nowhere", Chosen()))


def test_json_has_paths_and_depths(layered: Image) -> None:
    objects = [json.loads(to_json(branch)) for branch in branches(layered.rootfs, b"usr", Chosen())]
    assert [(each["path"], each["depth"], each["type"]) for each in objects][:3] == [
        ("usr", 0, "directory"),
        ("lib", 1, "directory"),
        ("lib/lib.so", 2, "regular"),
    ]
