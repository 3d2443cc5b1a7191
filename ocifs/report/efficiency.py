"""The efficiency of an image, as dive(1) defines it and gates builds on it.

The definition is that of https://github.com/wagoodman/dive, dive/filetree/efficiency.go and dive/image/analysis.go. For
each path, sum the bytes that all layers store under it, and take the smallest of them. The efficiency is the sum of the
smallest divided by the sum of all. A whiteout stores no bytes; a whiteout of a directory stores what the directory
held. A path in more than one layer counts as wasted in all of them, including the visible copy.

Paths are the names of entries: symlinks are not followed, opaque whiteouts are ignored, and hard links have no bytes. A
whiteout without a target, at which dive abandons the layer, stores no bytes.
"""

import posixpath
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ocifs.toc import DIRECTORY, Entry

_WHITEOUT = b".wh."
_META = b".wh..wh."


class Efficiency(NamedTuple):
    """The result of dive's analysis."""

    score: float
    """0 to 1."""
    wasted_bytes: int
    """Bytes in all layers of all paths that more than one layer adds or removes."""
    user_bytes: int
    """Bytes in all layers but the base."""

    @property
    def user_wasted(self) -> float:
        """The ratio of wasted bytes to user bytes; 0 if there are no user bytes."""
        return self.wasted_bytes / self.user_bytes if self.user_bytes else 0.0


class _File:
    """A path in the layers stacked so far."""

    __slots__ = ("children", "is_directory", "size")

    def __init__(self) -> None:
        self.size = 0
        self.is_directory = False
        self.children: dict[bytes, _File] = {}

    def child(self, name: bytes) -> "_File":
        """Return the child of that name, created if missing."""
        found = self.children.get(name)
        if found is None:
            found = self.children[name] = _File()
        return found

    def held(self) -> int:
        """Return the bytes of the file and of everything below it."""
        total = 0
        pending = [self]
        while pending:
            file = pending.pop()
            total += file.size
            pending += file.children.values()
        return total


class _Seen:
    """What the layers store under a path."""

    __slots__ = ("least", "times", "total")

    def __init__(self, size: int) -> None:
        self.total = self.least = size
        self.times = 1

    def again(self, size: int) -> None:
        self.total += size
        self.least = min(self.least, size)
        self.times += 1


def efficiency(layers: Iterable[Iterable[Entry]]) -> Efficiency:
    """Return the efficiency of the layers, the base first."""
    root = _File()
    paths: dict[bytes, _Seen] = {}
    user_bytes = 0
    for number, entries in enumerate(layers):
        given: dict[bytes, tuple[int, bool]] = {}
        for entry in entries:
            path, whole = _path(entry.path)
            if whole:
                given[path] = (entry.size, entry.kind == DIRECTORY)
            else:
                given.setdefault(path, (0, False))
            user_bytes += entry.size if number else 0
        given.pop(b"", None)
        for path, size in _leaves(given, root):
            if path in paths:
                paths[path].again(size)
            else:
                paths[path] = _Seen(size)
        _stack(root, given)
    total = sum(seen.total for seen in paths.values())
    least = sum(seen.least for seen in paths.values())
    wasted = sum(seen.total for seen in paths.values() if seen.times > 1)
    return Efficiency(least / total if total else 1.0, wasted, user_bytes)


def _path(name: bytes) -> tuple[bytes, bool]:
    """Return the cleaned path up to an AUFS name or opaque whiteout, and whether that is the whole path."""
    path = posixpath.normpath(b"/" + name.lstrip(b"/")).removeprefix(b"/")
    if _META not in path:
        return path, True
    names = path.split(b"/")
    end = next((place for place, each in enumerate(names) if each.startswith(_META)), len(names))
    return b"/".join(names[:end]), end == len(names)


def _leaves(given: dict[bytes, tuple[int, bool]], below: _File) -> Iterator[tuple[bytes, int]]:
    """Yield (path, bytes) of the entries without children in their layer."""
    parents = set()
    for path in given:
        parent = path.rpartition(b"/")[0]
        while parent and parent not in parents:
            parents.add(parent)
            parent = parent.rpartition(b"/")[0]
    for path, (size, _) in given.items():
        if path in parents:
            continue
        directory, slash, name = path.rpartition(b"/")
        if name.startswith(_WHITEOUT):
            removed = directory + slash + name.removeprefix(_WHITEOUT)
            file = _find(below, removed)
            yield removed, file.held() if file is not None and file.is_directory else 0
        else:
            yield path, size


def _find(root: _File, path: bytes) -> _File | None:
    file: _File | None = root
    for name in path.split(b"/"):
        file = file.children.get(name) if file is not None else None
    return file


def _stack(root: _File, given: dict[bytes, tuple[int, bool]]) -> None:
    """Apply a layer to those below: first its whiteouts, then its files."""
    for path in given:
        directory, _, name = path.rpartition(b"/")
        if name.startswith(_WHITEOUT) and (parent := _find(root, directory) if directory else root) is not None:
            parent.children.pop(name.removeprefix(_WHITEOUT), None)
    before, parent = b"", root
    for path, (size, is_directory) in given.items():
        directory, _, name = path.rpartition(b"/")
        if name.startswith(_WHITEOUT):
            continue
        if directory != before:  # most entries share the directory of the preceding one
            before, parent = directory, root
            for each in directory.split(b"/") if directory else ():
                parent = parent.child(each)
        file = parent.child(name)
        file.size, file.is_directory = size, is_directory
