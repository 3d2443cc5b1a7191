"""The largest files and directories of a tree, as many as a page can show."""

import heapq
import stat
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from ocifs.errors import printable
from ocifs.image.rootfs import Rootfs
from ocifs.report.usage import Usage, disk_usage

_LONGEST_NAME = 100


class Treemap(msgspec.Struct, frozen=True, kw_only=True):
    """Numbered files and directories, the root first and parents before their children.

    The size of a directory that its listed children do not account for belongs to files that are left out.
    """

    names: list[str]
    """Printable names, cut if long; those of directories end with a slash."""
    parents: list[int]
    """The number of the parent; -1 for the root."""
    sizes: list[int]
    """Bytes; for a directory, including everything below it."""
    layers: list[int]
    """The layer that most of these bytes come from."""
    left_out: int
    """Number of files and directories that are not listed."""


class LargeFile(NamedTuple):
    """A regular file of the tree."""

    size: int
    path: bytes
    """With a leading slash; the first name of a hard-linked file."""
    layer: int


class Files(NamedTuple):
    """The regular files of a tree; hard-linked files count once."""

    size: int
    """Total bytes."""
    largest: list[LargeFile]
    """The largest first, without empty files."""


def largest_files(rootfs: Rootfs, most: int) -> Files:
    """Return the largest regular files of a tree, at most `most`, and the size of all."""
    total = 0

    def counted() -> Iterator[LargeFile]:
        nonlocal total
        for file in _files(rootfs):
            total += file.size
            yield file

    largest = heapq.nsmallest(most, counted(), key=lambda file: (-file.size, file.path))
    return Files(total, largest)


def _files(rootfs: Rootfs) -> Iterator[LargeFile]:
    linked: set[int] = set()
    for path, inode in rootfs.walk():
        if not stat.S_ISREG(inode.mode) or not inode.size or inode.nid in linked:
            continue
        if inode.nlink > 1:
            linked.add(inode.nid)
        yield LargeFile(inode.size, b"/" + path, inode.layer)


def treemap(rootfs: Rootfs, most: int) -> Treemap:
    """Return the largest files and directories of a tree, at most `most`; hard-linked files count once."""
    count = 0

    def counted() -> Iterator[Usage]:
        nonlocal count
        for usage in disk_usage(rootfs, b"/", apparent=True, files=True):
            count += 1
            yield usage

    # A directory is at least as large as its children and wins ties, so every listed file has its parent listed.
    largest = heapq.nlargest(most, counted(), key=lambda usage: (usage.size, -usage.depth))
    numbers = {usage.path: number for number, usage in enumerate(largest)}
    parents = [-1 if not usage.depth else numbers[usage.path.rpartition(b"/")[0] or b"/"] for usage in largest]
    holding = set(parents)
    return Treemap(
        names=[_name(usage) + ("/" if number in holding else "") for number, usage in enumerate(largest)],
        parents=parents,
        sizes=[usage.size for usage in largest],
        layers=[max(usage.layers, key=lambda layer: usage.layers[layer]) for usage in largest],
        left_out=count - len(largest),
    )


def _name(usage: Usage) -> str:
    name = printable(usage.path.rpartition(b"/")[2])
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
