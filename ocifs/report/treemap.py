"""The largest files and directories of a tree, as many as a page can show."""

import heapq
from collections.abc import Iterator

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
