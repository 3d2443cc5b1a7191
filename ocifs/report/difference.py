"""The differences of two trees: names that only one of them has, and files that differ.

One walk covers both sorted trees. The comparison reads file data only if sizes agree and the two files lie at different
places of different layers, and then in the order of the layers. The tree images alone decide everything else.
"""

import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import msgspec

from ocifs.erofs.format import DIRECTORY
from ocifs.erofs.reader import Inode
from ocifs.image.contents import advancing, digests
from ocifs.image.rootfs import Rootfs
from ocifs.report.listing import Listed

Change = Literal["added", "removed", "changed"]
Aspect = Literal["type", "mode", "owner", "size", "mtime", "xattr", "target", "rdev", "content"]
ASPECTS: tuple[Aspect, ...] = get_args(Aspect)

Done = Callable[[int, int], None]
"""Called with (bytes read, total bytes)."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A path at which two trees differ."""

    path: bytes
    before: Listed | None
    """The file in the first tree; None: absent."""
    after: Listed | None
    aspects: tuple[Aspect, ...] = ()
    """The aspects that differ, of a file in both trees."""

    @property
    def change(self) -> Change:
        """The kind of change."""
        return "added" if self.before is None else "removed" if self.after is None else "changed"


class _Name(NamedTuple):
    """A name in a directory."""

    name: bytes
    nid: int
    directory: int | None
    """The nid again, if it is a directory."""


class _Found(NamedTuple):
    """A path at which two trees differ, or may differ."""

    path: bytes
    before: int | None
    after: int | None
    aspects: tuple[Aspect, ...] = ()
    undecided: bool = False
    """Whether only the file data can decide."""


def differences(
    before: Rootfs, after: Rootfs, starts: tuple[int | None, int | None], path: bytes, ignored: Iterable[Aspect] = (),
    done: Done | None = None,
) -> Iterator[Difference]:  # fmt: skip
    """Yield the differences at and below a path, in the order of a walk.

    Args:
        before: The first tree.
        after: The second tree.
        starts: The nid of `path` in each tree; None: absent.
        path: The path to show; that of the first tree, if `starts` are not the same path.
        ignored: Aspects to ignore.
        done: Receives the progress of reading file data.

    Raises:
        InvalidImageError: A span does not verify.
        OSError: A blob cannot be read.
    """
    looking = _Looking(before, after, frozenset(ignored))
    if looking.streams[0] == looking.streams[1] and starts[0] == starts[1]:
        return  # the same layers make the same tree
    found = list(looking.walk(path, *starts))
    same = _same_contents(before, after, found, done)
    for each in found:
        aspects = each.aspects
        if each.undecided and (each.before, each.after) not in same:
            aspects = tuple(aspect for aspect in ASPECTS if aspect in {*aspects, "content"})
        if aspects or each.before is None or each.after is None:
            yield Difference(
                path=each.path,
                before=_listed(before, each.path, each.before, aspects),
                after=_listed(after, each.path, each.after, aspects),
                aspects=aspects,
            )


def _listed(rootfs: Rootfs, path: bytes, nid: int | None, aspects: Sequence[Aspect]) -> Listed | None:
    if nid is None:
        return None
    listed = Listed.of(rootfs, path, nid)
    return msgspec.structs.replace(listed, xattrs=rootfs.tree.xattrs(nid)) if "xattr" in aspects else listed


def _same_contents(
    before: Rootfs, after: Rootfs, found: Iterable[_Found], done: Done | None
) -> set[tuple[int | None, int | None]]:
    """Read the undecided files; return the pairs with equal bytes."""
    pairs = {(each.before, each.after) for each in found if each.undecided}
    sides = [(tree, {pair[side] for pair in pairs} - {None}) for side, tree in enumerate((before, after))]
    total = sum(tree.tree.inode(nid).size for tree, nids in sides for nid in nids if nid is not None)
    advance = advancing(total, done)
    first, second = (digests(tree, (nid for nid in nids if nid is not None), advance) for tree, nids in sides)
    return {(a, b) for a, b in pairs if a is not None and b is not None and first[a] == second[b]}


class _Looking:
    """Two trees, side by side."""

    def __init__(self, before: Rootfs, after: Rootfs, ignored: frozenset[Aspect]) -> None:
        self.before = before
        self.after = after
        self.ignored = ignored
        self.streams = [[layer.index.stream for layer in tree.served.layers] for tree in (before, after)]

    def walk(self, path: bytes, before: int | None, after: int | None) -> Iterator[_Found]:
        """Yield every path at which the trees differ or may differ, depth first and by name."""
        if found := self._compared(path, before, after):
            yield found
        prefix = path if path.endswith(b"/") else path + b"/"
        pending = [(prefix, self._children(_directory(self.before, before), _directory(self.after, after)))]
        while pending:
            prefix, children = pending[-1]
            for name, first, second in children:
                if found := self._compared(prefix + name, first and first.nid, second and second.nid):
                    yield found
                below = (first.directory if first else None, second.directory if second else None)
                if below != (None, None):
                    pending.append((prefix + name + b"/", self._children(*below)))
                    break
            else:
                pending.pop()

    def _children(self, before: int | None, after: int | None) -> Iterator[tuple[bytes, _Name | None, _Name | None]]:
        """Yield (name, its entry in the first directory, in the second) by name."""
        left, right = _names(self.before, before), _names(self.after, after)
        first, second = next(left, None), next(right, None)
        while first or second:
            if first and (second is None or first.name < second.name):
                yield first.name, first, None
                first = next(left, None)
            elif second and (first is None or second.name < first.name):
                yield second.name, None, second
                second = next(right, None)
            elif first and second:
                yield first.name, first, second
                first, second = next(left, None), next(right, None)

    def _compared(self, path: bytes, before: int | None, after: int | None) -> _Found | None:
        if before is None or after is None:
            return _Found(path, before, after)
        first, second = self.before.tree.inode(before), self.after.tree.inode(after)
        aspects = () if self._look_alike(first, second) else self._aspects(first, second)
        undecided = (
            stat.S_ISREG(first.mode)
            and stat.S_IFMT(first.mode) == stat.S_IFMT(second.mode)
            and first.size == second.size > 0
            and "content" not in self.ignored
            and not self._lies_in_the_same_place(first, second)
        )
        return _Found(path, before, after, aspects, undecided) if aspects or undecided else None

    def _look_alike(self, first: Inode, second: Inode) -> bool:
        """Return whether only the content can differ. This is true for nearly all files of two related images."""
        return (
            first.mode == second.mode
            and first.mtime_ns == second.mtime_ns
            and first.size == second.size
            and (first.uid, first.gid, first.rdev) == (second.uid, second.gid, second.rdev)
            and not (first.has_xattrs or second.has_xattrs)
            and not stat.S_ISLNK(first.mode)
        )

    def _aspects(self, first: Inode, second: Inode) -> tuple[Aspect, ...]:
        """Return the aspects that differ, as far as they need no file data."""
        return tuple(aspect for aspect, differs in self._told(first, second) if differs and aspect not in self.ignored)

    def _told(self, first: Inode, second: Inode) -> Iterator[tuple[Aspect, bool]]:
        """Yield whether each aspect differs, in the order of `ASPECTS`."""
        kind = stat.S_IFMT(first.mode)
        same_kind = kind == stat.S_IFMT(second.mode)
        resized = same_kind and stat.S_ISREG(kind) and first.size != second.size
        yield "type", not same_kind
        yield "mode", stat.S_IMODE(first.mode) != stat.S_IMODE(second.mode)
        yield "owner", (first.uid, first.gid) != (second.uid, second.gid)
        yield "size", resized
        yield "mtime", first.mtime_ns != second.mtime_ns
        yield "xattr", self.before.tree.xattrs(first.nid) != self.after.tree.xattrs(second.nid)
        yield (
            "target",
            same_kind and stat.S_ISLNK(kind) and self.before.readlink(first.nid) != self.after.readlink(second.nid),
        )
        yield "rdev", same_kind and first.rdev != second.rdev
        yield "content", resized

    def _lies_in_the_same_place(self, first: Inode, second: Inode) -> bool:
        """Return whether both are the same bytes of the same tar stream."""
        places = self._places(0, self.before, first)
        return places is not None and places == self._places(1, self.after, second)

    def _places(self, side: int, rootfs: Rootfs, inode: Inode) -> list[tuple[str, int, int]] | None:
        places = []
        for address, size in rootfs.tree.extents_of(inode):
            place = None if address is None else rootfs.tree.layer_of(address)
            if address is not None and place is None:  # data of a sparse file inside the tree image
                return None
            places.append((self.streams[side][place[0]], place[1], size) if place else ("", 0, size))
        return places


def _directory(rootfs: Rootfs, nid: int | None) -> int | None:
    return nid if nid is not None and stat.S_ISDIR(rootfs.tree.inode(nid).mode) else None


def _names(rootfs: Rootfs, directory: int | None) -> Iterator[_Name]:
    if directory is not None:
        for name, nid, file_type in rootfs.tree.entries(directory):
            yield _Name(name, nid, nid if file_type == DIRECTORY else None)
