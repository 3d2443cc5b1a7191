"""What files take, against a count of every file one by one."""

import json
import stat

import pytest

from ocifs.image.opening import Image
from ocifs.report.usage import Usage, disk_usage, to_json, usage_lines


def expected(image: Image, path: bytes, *, apparent: bool) -> dict[int, int]:
    """Return the bytes of each layer below `path`, each inode once."""
    inodes = {inode.nid: inode for _, inode in image.rootfs.walk(path)}
    layers: dict[int, int] = {}
    for inode in inodes.values():
        layers[inode.layer] = layers.get(inode.layer, 0) + (inode.size if apparent else inode.blocks * 512)
    return layers


@pytest.mark.parametrize("apparent", [True, False])
@pytest.mark.parametrize("path", [b"/", b"/etc", b"usr/", b"/empty", b"/etc/passwd", b"/null"])
def test_sums(layered: Image, path: bytes, apparent: bool) -> None:
    *_, last = disk_usage(layered.rootfs, path, apparent=apparent, files=False)
    assert (last.path, last.depth) == (path, 0)
    assert last.layers == expected(layered, path, apparent=apparent)
    assert last.size == sum(last.layers.values())


def test_directories_come_after_what_is_in_them(layered: Image) -> None:
    found = [(usage.path, usage.depth) for usage in disk_usage(layered.rootfs, b"/", apparent=False, files=False)]
    directories = [b"/" + path for path, inode in layered.rootfs.walk() if stat.S_ISDIR(inode.mode)]
    assert sorted(path for path, _ in found) == sorted(directories)
    assert found[-3:] == [(b"/usr/lib", 2), (b"/usr", 1), (b"/", 0)]


def test_a_file_with_several_names_counts_once(layered: Image) -> None:
    paths = [usage.path for usage in disk_usage(layered.rootfs, b"/", apparent=False, files=True)]
    assert b"/etc/lib" in paths
    assert b"/usr/lib/lib.so" not in paths
    assert b"/usr/lib/new" in paths
    assert [usage.path for usage in disk_usage(layered.rootfs, b"/usr/lib", apparent=True, files=True)] == [
        b"/usr/lib/lib.so",
        b"/usr/lib/new",
        b"/usr/lib",
    ]


def test_a_symlink_is_not_followed(layered: Image) -> None:
    (only,) = disk_usage(layered.rootfs, b"/lib", apparent=True, files=False)
    assert (only.path, only.size) == (b"/lib", 7)


def test_lines_and_json() -> None:
    usage = Usage(b"/\xff", 0, {2: 5, 0: 1500})

    def size(number: int) -> str:
        return str(number)

    assert list(usage_lines(usage, lambda name: name, size, by_layer=False)) == [b"1505\t/\xff"]
    assert list(usage_lines(usage, lambda name: name, size, by_layer=True)) == [b"1500\t0\t/\xff", b"5\t2\t/\xff"]
    assert json.loads(to_json(usage)) == {
        "path": "/\\xff",
        "path_base64": "L/8=",
        "size": 1505,
        "depth": 0,
        "layers": [{"layer": 0, "size": 1500}, {"layer": 2, "size": 5}],
    }
