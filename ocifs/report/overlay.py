"""The tree as of any layer, and its changes since another layer, one directory at a time.

It stacks the trees of what each layer changes (`ocifs.tree.changes`) as overlayfs stacks its lower directories. So it
needs no merged tree for each layer, and reads a directory only on demand.
"""

import heapq
import re
import stat
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Literal, NamedTuple

from ocifs.erofs import format as erofs
from ocifs.erofs.reader import Inode
from ocifs.image.rootfs import Rootfs

Change = Literal["added", "changed", "removed", "unchanged"]

Place = tuple[int, int]
"""(position of the tree in the overlay, nid)."""
Stack = tuple[Place, ...]
"""The directories merged under one name, the base first; for another file, itself; empty for an absent file."""

_NAME = itemgetter(0)
_CHARACTER = erofs.FILE_TYPES[stat.S_IFCHR]


class Compared(NamedTuple):
    """A name in a directory, before and after some layers."""

    name: bytes
    before: Stack
    after: Stack
    is_directory: bool
    """It is or was a directory, so it may have content."""

    @property
    def change(self) -> Change:
        """The change; for a directory also `changed` if anything below it differs."""
        if not self.after:
            return "removed"
        if not self.before:
            return "added"
        return "unchanged" if self.before == self.after else "changed"

    @property
    def shown(self) -> Stack:
        """The present or former file to show."""
        return self.after or self.before


class Overlay:
    """Trees of changes stacked on each other, the base first; or one whole tree."""

    def __init__(self, trees: Sequence[Rootfs]) -> None:
        self.trees = trees

    def root(self, count: int) -> Stack:
        """Return the merged root of the first `count` trees."""
        return self._fold([(number, self.trees[number].root, erofs.DIRECTORY) for number in range(count)])

    def rootfs(self, stack: Stack) -> Rootfs:
        """Return the tree that holds a file under the nid of its inode."""
        return self.trees[stack[-1][0]]

    def inode(self, stack: Stack) -> Inode:
        """Return the attributes of a file from its topmost layer."""
        number, nid = stack[-1]
        return self.trees[number].tree.inode(nid)

    def entries(self, before: Stack, after: Stack) -> Iterator[Compared]:
        """Yield the entries of a directory by name; a stack that is not a directory has none."""
        lower, upper = self._directories(before), self._directories(after)
        places = sorted(lower | upper)
        if len(places) == 1:  # by far the most common case
            for name, (_, child) in self._names(places[0]):
                if here := self._fold([child]):
                    is_directory = child[2] == erofs.DIRECTORY
                    yield Compared(name, here if lower else (), here if upper else (), is_directory)
            return
        for name, found in groupby(heapq.merge(*map(self._names, places), key=_NAME), key=_NAME):
            versions = [version for _, version in found]
            here = self._fold([child for place, child in versions if place in upper])
            there = here if lower == upper else self._fold([child for place, child in versions if place in lower])
            if here or there:
                types = {(number, nid): file_type for _, (number, nid, file_type) in versions}
                is_directory = any(types[stack[-1]] == erofs.DIRECTORY for stack in (here, there) if stack)
                yield Compared(name, there, here, is_directory)

    def walk(self, before: Stack, after: Stack) -> Iterator[tuple[bytes, Compared]]:
        """Yield (path without a leading slash, file) of all files below a directory, depth first and by name."""
        pending = [(b"", self.entries(before, after))]
        while pending:
            prefix, entries = pending[-1]
            for entry in entries:
                yield prefix + entry.name, entry
                if entry.is_directory:
                    pending.append((prefix + entry.name + b"/", self.entries(entry.before, entry.after)))
                    break
            else:
                pending.pop()

    def _directories(self, stack: Stack) -> frozenset[Place]:
        return frozenset(stack if stack and stat.S_ISDIR(self.inode(stack).mode) else ())

    def _names(self, place: Place) -> Iterator[tuple[bytes, tuple[Place, tuple[int, int, int]]]]:
        number, nid = place
        for name, child, file_type in self.trees[number].tree.entries(nid):
            yield name, (place, (number, child, file_type))

    def _fold(self, versions: Sequence[tuple[int, int, int]]) -> Stack:
        """Return the remaining (tree, nid, file type) of a name, the lowest first."""
        if len(versions) == 1 and versions[0][2] != _CHARACTER:
            return (versions[0][:2],)
        stack: Stack = ()
        merging = False
        for number, nid, file_type in versions:
            tree = self.trees[number]
            if file_type == erofs.DIRECTORY:
                merging = merging and not tree.is_opaque(tree.tree.inode(nid))
                stack = (*stack, (number, nid)) if merging else ((number, nid),)
                merging = True
                continue
            merging = False
            removed = file_type == _CHARACTER and tree.is_whiteout(tree.tree.inode(nid))
            stack = () if removed else ((number, nid),)
        return stack


class Sizes:
    """The total size of each directory that the walk has completed."""

    def __init__(self, overlay: Overlay) -> None:
        self._overlay = overlay
        # Indexed by nid, plus one: 0 is unknown. A dict would exceed the trees themselves.
        self._known = [array("Q", bytes(8 * (rootfs.tree.size >> erofs.NID_BITS))) for rootfs in overlay.trees]

    def of(self, stack: Stack) -> int | None:
        """Return the size of a file, or of a directory's whole content; None: not known yet."""
        inode = self._overlay.inode(stack)
        if not stat.S_ISDIR(inode.mode):
            return inode.size
        number, nid = stack[-1]
        return self._known[number][nid] - 1 if self._known[number][nid] else None

    def add_up(self, before: Stack, after: Stack, stop: Callable[[], bool]) -> None:
        """Compute the sizes of a directory and of those below it, until `stop` returns True.

        A removed file does not count in a directory that still exists. A hard-linked file counts once in a layer; if
        another layer links it again, it counts there as well.
        """
        seen: set[Place] = set()
        root = Compared(b"", before, after, is_directory=True)
        above = [(root, [0])]
        for path, entry in self._overlay.walk(before, after):
            if stop():
                return
            while len(above) > path.count(b"/") + 1:
                self._close(above)
            inode = self._overlay.inode(entry.shown)
            if entry.is_directory:
                above.append((entry, [0 if stat.S_ISDIR(inode.mode) else inode.size]))
            elif entry.after or not above[-1][0].after:
                place = entry.shown[-1]
                if inode.nlink == 1 or place not in seen:
                    above[-1][1][0] += inode.size
                if inode.nlink > 1:
                    seen.add(place)
        while above:
            self._close(above)

    def _close(self, above: list[tuple[Compared, list[int]]]) -> None:
        entry, (size,) = above.pop()
        if entry.shown:
            number, nid = entry.shown[-1]
            self._known[number][nid] = size + 1
        if above and (entry.after or not above[-1][0].after):
            above[-1][1][0] += size


class Found(NamedTuple):
    """The result of a search."""

    paths: frozenset[bytes]
    """The matching paths, and all directories that lead to them."""
    matches: int
    whole: bool
    """Whether the result is complete."""


def search(
    overlay: Overlay, before: Stack, after: Stack, pattern: re.Pattern[bytes], most: int, stop: Callable[[], bool]
) -> Found:
    """Return matching paths below a directory, until `stop` returns True or `most` paths are found."""
    paths: set[bytes] = set()
    count = 0
    for path, _ in overlay.walk(before, after):
        if stop():
            break
        if not pattern.search(path):
            continue
        if len(paths) >= most:
            return Found(frozenset(paths), count, whole=False)
        count += 1
        way = path
        while way and way not in paths:
            paths.add(way)
            way = way.rpartition(b"/")[0]
    return Found(frozenset(paths), count, whole=True)
