"""The largest files and directories of a tree."""

import pytest

from ocifs.image.opening import Image
from ocifs.report.treemap import LargeFile, Treemap, largest_files, treemap


def listed(tree: Treemap) -> dict[str, tuple[int, int]]:
    """Return size and layer of each path."""
    paths: list[str] = []
    for name, parent in zip(tree.names, tree.parents, strict=True):
        paths.append(name if parent < 0 else paths[parent] + name)
    assert len(set(paths)) == len(paths)
    return dict(zip(paths, zip(tree.sizes, tree.layers, strict=True), strict=True))


def test_all_of_a_small_tree(layered: Image) -> None:
    tree = treemap(layered.rootfs, 100)
    found = listed(tree)
    assert tree.left_out == 0
    assert tree.names[0] == "/"
    assert found["/usr/lib/new"] == (5000, 1)
    assert sum(path.startswith("/usr/lib/lib.so") for path in found) == 0  # counts in /etc, where it comes first
    assert found["/etc/lib"] == (3000, 0)
    assert found["/no\\xfftext\\n"] == (1, 2)


@pytest.mark.parametrize("most", range(1, 20))
def test_what_is_listed_is_the_largest_with_all_above_it(layered: Image, most: int) -> None:
    whole, some = treemap(layered.rootfs, 100), treemap(layered.rootfs, most)
    assert len(some.names) == len(some.sizes) == len(some.layers) == most
    assert some.left_out == len(whole.names) - most
    assert some.sizes == sorted(whole.sizes, reverse=True)[:most]
    assert all(-1 <= parent < number for number, parent in enumerate(some.parents))
    assert {size for size, _ in listed(some).values()} <= set(whole.sizes)
    for number, size in enumerate(some.sizes):
        inside = [some.sizes[each] for each, parent in enumerate(some.parents) if parent == number]
        assert sum(inside) <= size


def test_the_largest_files(layered: Image) -> None:
    files = largest_files(layered.rootfs, 2)
    assert files.largest == [LargeFile(5000, b"/usr/lib/new", 1), LargeFile(3000, b"/etc/lib", 0)]
    everything = largest_files(layered.rootfs, 100)
    assert everything.size == files.size == sum(file.size for file in everything.largest)
    assert all(file.size for file in everything.largest)
