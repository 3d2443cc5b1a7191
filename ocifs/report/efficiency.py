"""The efficiency of an image, as dive(1) defines it and fails builds by it.

The definition is that of https://github.com/wagoodman/dive, dive/filetree/efficiency.go and dive/image/analysis.go:
of each path the bytes that each layer gives it are added up, and so is the least of them; the efficiency is what the
least come to, divided by what all come to. A whiteout gives its path no bytes; that of a directory gives it what the
directory held then. What is in a path twice is wasted, the copy that is seen included. Paths are what entries are
named: symlinks are not followed, opaque whiteouts not looked at, and hard links have no bytes. A whiteout of nothing,
at which dive gives up the layer, gives no bytes.
"""

import posixpath
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ocifs.toc import DIRECTORY, Entry

_WHITEOUT = b".wh."
_META = b".wh..wh."


class Efficiency(NamedTuple):
    """What dive tells of an image."""

    score: float
    """0 to 1."""
    wasted_bytes: int
    """Of all paths that more than one layer gives or removes, in all these layers."""
    user_bytes: int
    """Of all layers but the base."""

    @property
    def user_wasted(self) -> float:
        """Wasted bytes to user bytes; 0 where there are none of these."""
        return self.wasted_bytes / self.user_bytes if self.user_bytes else 0.0


class _File:
    """A path in the layers that are stacked so far."""

    __slots__ = ("children", "is_directory", "size")

    def __init__(self) -> None:
        self.size = 0
        self.is_directory = False
        self.children: dict[bytes, _File] = {}

    def child(self, name: bytes) -> "_File":
        """Return what has that name in it, made now if nothing has."""
        found = self.children.get(name)
        if found is None:
            found = self.children[name] = _File()
        return found

    def held(self) -> int:
        """Return the bytes of it and of all below it."""
        total = 0
        pending = [self]
        while pending:
            file = pending.pop()
            total += file.size
            pending += file.children.values()
        return total


class _Seen:
    """What layers gave a path."""

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
    """Return the cleaned path, up to a name that is AUFS's or an opaque whiteout; and whether that is all of it."""
    path = posixpath.normpath(b"/" + name.lstrip(b"/")).removeprefix(b"/")
    if _META not in path:
        return path, True
    names = path.split(b"/")
    end = next((place for place, each in enumerate(names) if each.startswith(_META)), len(names))
    return b"/".join(names[:end]), end == len(names)


def _leaves(given: dict[bytes, tuple[int, bool]], below: _File) -> Iterator[tuple[bytes, int]]:
    """Give (path, bytes) of what has nothing below it in a layer."""
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
    """Put a layer on those below: first what it removes, then what it gives."""
    for path in given:
        directory, _, name = path.rpartition(b"/")
        if name.startswith(_WHITEOUT) and (parent := _find(root, directory) if directory else root) is not None:
            parent.children.pop(name.removeprefix(_WHITEOUT), None)
    before, parent = b"", root
    for path, (size, is_directory) in given.items():
        directory, _, name = path.rpartition(b"/")
        if name.startswith(_WHITEOUT):
            continue
        if directory != before:  # most have the directory of the one before
            before, parent = directory, root
            for each in directory.split(b"/") if directory else ():
                parent = parent.child(each)
        file = parent.child(name)
        file.size, file.is_directory = size, is_directory
