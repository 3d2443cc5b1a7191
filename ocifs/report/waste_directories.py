"""Hidden files by directory: the few directories that account for most of the hidden bytes.

A directory with less than a fortieth of the hidden bytes counts in its parent, and so on upwards. Each hidden file
thus belongs to exactly one group, the nearest directory above it that has one, and there are at most 41 groups. A deep
tree of small files, such as removed documentation, becomes one group instead of thousands.
"""

import os.path
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ocifs.report.waste import Hidden

_MOST = 40
"""A group other than the root holds at least the total divided by this."""


class HiddenDirectory(NamedTuple):
    """A directory with hidden files; those in groups further below are not part of it."""

    path: bytes
    """With a leading slash."""
    size: int
    """Bytes of the files."""
    files: list[Hidden]
    """The largest first."""

    def stored(self) -> dict[int, int]:
        """Return the bytes of the files that each layer stores, by layer."""
        found: dict[int, int] = {}
        for file in self.files:
            found[file.layer] = found.get(file.layer, 0) + file.size
        return dict(sorted(found.items()))

    def layers(self) -> dict[int, int]:
        """Return the bytes of the files that each layer stores or hides, by layer."""
        found: dict[int, int] = {}
        for file in self.files:
            for layer in {file.layer, file.by}:
                found[layer] = found.get(layer, 0) + file.size
        return dict(sorted(found.items()))


class _Open:
    """A directory that the walk is in."""

    __slots__ = ("end", "files", "size")

    def __init__(self, end: int) -> None:
        self.end = end
        """Length of its path."""
        self.files: list[Hidden] = []
        self.size = 0

    def take(self, files: list[Hidden], size: int) -> None:
        if len(files) > len(self.files):
            self.files, files = files, self.files
        self.files += files
        self.size += size


def by_directory(hidden: Sequence[Hidden]) -> list[HiddenDirectory]:
    """Return the groups, the largest first."""
    least = sum(each.size for each in hidden) / _MOST
    return sorted(_groups(hidden, least), key=lambda group: (-group.size, group.path))


def _groups(hidden: Sequence[Hidden], least: float) -> Iterator[HiddenDirectory]:
    """Yield the groups of at least `least` bytes, those below first."""
    way = [_Open(0)]
    here = b""
    # With the separator as the lowest byte, everything below a directory follows it without a gap.
    for each in sorted(hidden, key=lambda each: _directory(each).replace(b"/", b"\0")):
        directory = _directory(each)
        if directory != here:
            common = _common(here, directory)
            while way[-1].end > common:
                yield from _close(way, here, least)
            way += [_Open(end) for end in _ends(directory, common)]
            here = directory
        way[-1].take([each], each.size)
    while way:
        yield from _close(way, here, least)


def _close(way: list[_Open], here: bytes, least: float) -> Iterator[HiddenDirectory]:
    """Leave the innermost directory: it becomes a group, or counts in its parent."""
    left = way.pop()
    if not left.files:
        return
    if way and left.size < least:
        way[-1].take(left.files, left.size)
    else:
        files = sorted(left.files, key=lambda each: (-each.size, each.path))
        yield HiddenDirectory(here[: left.end] or b"/", left.size, files)


def _directory(each: Hidden) -> bytes:
    """Return the path of a file's directory, empty for the root."""
    return each.path.rpartition(b"/")[0]


def _common(one: bytes, other: bytes) -> int:
    """Return the length of the path of the deepest directory above or at both."""
    return len(os.path.commonpath([one or b"/", other or b"/"]).rstrip(b"/"))


def _ends(directory: bytes, start: int) -> Iterator[int]:
    """Yield the lengths of the paths of the directories below `start`, down to `directory`."""
    while start < len(directory):
        end = directory.find(b"/", start + 1)
        start = len(directory) if end < 0 else end
        yield start
