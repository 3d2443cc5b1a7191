"""Where the bytes of a tree are: its largest files and directories, as many as a page can show."""

import heapq
from collections.abc import Iterator

import msgspec

from ocifs.errors import printable
from ocifs.image.rootfs import Rootfs
from ocifs.report.usage import Usage, disk_usage

_LONGEST_NAME = 100


class Treemap(msgspec.Struct, frozen=True, kw_only=True):
    """Files and directories by number, the root first and parents before what is in them.

    What a directory holds more than those in it that are listed are files that are left out.
    """

    names: list[str]
    """Printable, long ones cut; of directories with a slash at the end."""
    parents: list[int]
    """The number of the directory; -1 of the root."""
    sizes: list[int]
    """Bytes, of a directory with all below it."""
    layers: list[int]
    """The layer that most of these bytes are from."""
    left_out: int
    """How many files and directories are not listed."""


def treemap(rootfs: Rootfs, most: int) -> Treemap:
    """Return the largest files and directories of a tree, at most so many; hard-linked files count once."""
    count = 0

    def counted() -> Iterator[Usage]:
        nonlocal count
        for usage in disk_usage(rootfs, b"/", apparent=True, files=True):
            count += 1
            yield usage

    # A directory is no smaller than what is in it, and is taken first of the same size: none is listed without its own.
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
