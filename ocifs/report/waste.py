"""Hidden bytes of an image: files that a later layer replaced or removed; and duplicate files.

One walk goes through the trees of what each layer changes, side by side. Its cost follows the content of the layers,
and it keeps nothing for visible files. A hard-linked file is hidden when all its names are. Sizes are bytes of files in
the tar streams: holes count as 0, and pieces of sparse files that were copied into the tree image count with their
chunks. Data that one layer stores twice under one name are hidden too, but have no entry of their own.
"""

import heapq
import itertools
import stat
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Literal, NamedTuple

import msgspec

from ocifs.erofs.format import CHUNKED
from ocifs.erofs.reader import Inode
from ocifs.image.contents import advancing, digests
from ocifs.image.opening import Image
from ocifs.image.rootfs import Rootfs
from ocifs.report.efficiency import Efficiency, efficiency
from ocifs.toc import REGULAR, Entry

Done = Callable[[int], None]
Progress = Callable[[int, int], None]
_Key = tuple[int, int]
"""Identifies the bytes of a file: layer and offset in its tar stream. For a sparse file that is only in the tree image:
a negative number for the tree image, and the nid in it."""


class Hidden(NamedTuple):
    """A hidden file. Sizes are bytes."""

    size: int
    """The stored size."""
    path: bytes
    layer: int
    """The layer that stores it."""
    by: int
    """The layer that hides it."""
    how: Literal["replaced", "removed"]


class LayerWaste(msgspec.Struct, frozen=True):
    """What a layer stores, in bytes of files."""

    layer: int
    digest: str
    stored: int
    hidden: int


class Duplicates(NamedTuple):
    """Files of the merged tree with equal content that is stored more than once."""

    size: int
    """The size of each."""
    paths: list[bytes]

    @property
    def wasted(self) -> int:
        """Bytes of all copies but one."""
        return self.size * (len(self.paths) - 1)


class Waste(NamedTuple):
    """The waste of an image."""

    efficiency: Efficiency
    layers: list[LayerWaste]
    hidden: list[Hidden]
    """Hidden files, the largest first."""

    @property
    def hidden_bytes(self) -> int:
        """Bytes of the files of all layers that later layers hide."""
        return sum(layer.hidden for layer in self.layers)

    @property
    def stored_bytes(self) -> int:
        """Bytes of files that all layers store."""
        return sum(layer.stored for layer in self.layers)


def waste(image: Image, progress: Progress | None = None) -> Waste:
    """Return what is hidden in an image.

    `progress` receives (bytes of tar streams done, in total): half of a layer is done with its entries.
    """
    stored: list[int] = []
    advance = advancing(sum(layer.size for layer in image.layers), progress)

    def tocs() -> Iterator[list[Entry]]:
        for layer in image.layers:
            toc = layer.index.toc()
            stored.append(sum(entry.stored for entry in toc if entry.kind == REGULAR))
            yield toc
            advance(layer.size // 2)

    score = efficiency(tocs())
    hidden = _Walk(image, advance).hidden()
    seen = [0] * len(stored)
    for inode in _regular_files(image.rootfs):
        layer, size, key = _stored(image.rootfs, inode)
        seen[layer] += size
        hidden.pop(key, None)
    layers = [
        LayerWaste(number, str(layer.descriptor.digest), stored[number], max(0, stored[number] - seen[number]))
        for number, layer in enumerate(image.resolved.layers)
    ]
    return Waste(score, layers, sorted(hidden.values(), key=lambda each: (-each.size, each.path)))


def duplicates(rootfs: Rootfs, progress: Progress | None = None) -> list[Duplicates]:
    """Return groups of equal, non-empty files, the most wasteful first. Only files of equal size are read.

    `progress` receives (bytes read, bytes to read).

    Raises:
        InvalidImageError: A span does not verify.
        OSError: A blob cannot be read.
    """
    sizes = Counter(inode.size for inode in _regular_files(rootfs))
    candidates = [inode for inode in _regular_files(rootfs) if inode.size and sizes[inode.size] > 1]
    total = sum(_stored(rootfs, inode)[1] for inode in candidates) if progress else 0
    found = digests(rootfs, [inode.nid for inode in candidates], advancing(total, progress))
    times = Counter(found.values())
    same: dict[bytes, tuple[int, list[bytes]]] = {}
    named: set[int] = set()
    for path, inode in rootfs.walk():
        digest = found.get(inode.nid, b"")
        if times[digest] > 1 and inode.nid not in named:
            named.add(inode.nid)
            same.setdefault(digest, (inode.size, []))[1].append(b"/" + path)
    groups = [Duplicates(size, paths) for size, paths in same.values()]
    return sorted(groups, key=lambda each: (-each.wasted, each.paths))


def _regular_files(rootfs: Rootfs) -> Iterator[Inode]:
    """Yield each regular file once."""
    linked: set[int] = set()
    for _, nid in rootfs.tree.walk(rootfs.root):
        inode = rootfs.tree.inode(nid)
        if not stat.S_ISREG(inode.mode) or nid in linked:
            continue
        if inode.nlink > 1:
            linked.add(nid)
        yield inode


def _stored(rootfs: Rootfs, inode: Inode) -> tuple[int, int, _Key]:
    """Return the layer that stores a file, its stored bytes, and its key."""
    extents = [(address, size) for address, size in rootfs.tree.extents_of(inode) if address is not None]
    places = (rootfs.tree.layer_of(address) for address, _ in extents)
    place = next(filter(None, places), None)
    return inode.layer, sum(size for _, size in extents), place or (-1, inode.nid)


class _Given(NamedTuple):
    """What a layer has under a name."""

    layer: int
    inode: Inode
    whiteout: bool

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.inode.mode)


class _Walk:
    """A walk through the trees of what each layer changes, side by side."""

    def __init__(self, image: Image, advance: Done) -> None:
        self._trees: list[Rootfs] = []
        for number, layer in enumerate(image.layers):
            self._trees.append(image.changes(number))
            advance(layer.size - layer.size // 2)
        self._hidden: dict[_Key, Hidden] = {}
        self._seen: set[_Key] = set()
        """Keys of files stored only in the tree image that a visible name shows."""

    def hidden(self) -> dict[_Key, Hidden]:
        """Return the files with a hidden name, except hard-linked files with another visible name."""
        self._go(everywhere=False)
        if any(layer < 0 for layer, _ in self._hidden):  # rare, and only all names tell which of these are visible
            self._go(everywhere=True)
        for key in self._seen:
            self._hidden.pop(key, None)
        return self._hidden

    def _go(self, *, everywhere: bool) -> None:
        """Record hidden files; unless `everywhere`, skip directories that cannot contain any."""
        roots = [(number, tree.root) for number, tree in enumerate(self._trees)]
        pending = [(b"/", self._children(roots), tuple(self._cuts(self._given(roots))))]
        while pending:
            prefix, names, cuts = pending[-1]
            for name, given in names:
                self._note(prefix + name, given, cuts)
                directories = [(each.layer, each.inode.nid) for each in given if each.is_directory]
                if not directories:
                    continue
                below = tuple(sorted({*cuts, *self._cuts(given)}))
                if everywhere or len(directories) > 1 or bisect_right(below, directories[0][0]) < len(below):
                    pending.append((prefix + name + b"/", self._children(directories), below))
                    break
            else:
                pending.pop()

    def _children(self, directories: Sequence[tuple[int, int]]) -> Iterator[tuple[bytes, list[_Given]]]:
        """Yield (name, the entry of each layer, the lowest first) by name."""
        named = heapq.merge(*(self._names(layer, nid) for layer, nid in directories))
        for name, group in itertools.groupby(named, itemgetter(0)):
            yield name, self._given([(layer, nid) for _, layer, nid in group])

    def _names(self, layer: int, nid: int) -> Iterator[tuple[bytes, int, int]]:
        return ((name, layer, child) for name, child, _ in self._trees[layer].tree.entries(nid))

    def _given(self, nids: Sequence[tuple[int, int]]) -> list[_Given]:
        found = []
        for layer, nid in nids:
            tree = self._trees[layer]
            inode = tree.tree.inode(nid)
            found.append(_Given(layer, inode, tree.is_whiteout(inode)))
        return found

    def _cuts(self, given: Sequence[_Given]) -> Iterator[int]:
        """Yield the layers that hide the lower content of the directory."""
        return (each.layer for each in given if not each.is_directory or self._trees[each.layer].is_opaque(each.inode))

    def _note(self, path: bytes, given: Sequence[_Given], cuts: Sequence[int]) -> None:
        """Record what is hidden under a name, in directories hidden by `cuts`."""
        for place, each in enumerate(given):
            if each.whiteout or not stat.S_ISREG(each.inode.mode):
                continue
            cut = bisect_right(cuts, each.layer)
            above = given[place + 1 : place + 2]
            seen = not above and cut == len(cuts)
            if seen and each.inode.layout != CHUNKED:
                continue
            _, size, key = _stored(self._trees[each.layer], each.inode)
            if key[0] < 0:
                key = (-1 - each.layer, each.inode.nid)
            if seen:
                if key[0] < 0:
                    self._seen.add(key)
                continue
            by_name = bool(above) and (cut == len(cuts) or above[0].layer <= cuts[cut])
            by = above[0].layer if by_name else cuts[cut]
            how: Literal["replaced", "removed"] = "replaced" if by_name and not above[0].whiteout else "removed"
            before = self._hidden.get(key)
            if size and before is None:
                self._hidden[key] = Hidden(size, path, each.inode.layer, by, how)
            elif before is not None and before.by < by:
                self._hidden[key] = before._replace(by=by, how=how)
