"""What one layer changes, as a tree of its own: the names it gave, those it removed, and the directories on the way.

It is written as overlayfs writes an upper layer (Linux Documentation/filesystems/overlayfs.rst, "whiteouts and opaque
directories"). A name that was removed is a character device 0:0; an extended attribute tells it from a device that an
image really holds, as `merge` lets none of these names pass. A directory whose lower content is hidden is marked
opaque. Directories on the way are from a lower layer, and keep its number. It does not know how layers are applied.
"""

import stat
from collections.abc import Iterable

from ocifs.tree.node import Node

WHITEOUT_XATTR = b"trusted.overlay.whiteout"
"""Only on whiteouts; its value is empty."""
OPAQUE_XATTR = b"trusted.overlay.opaque"
"""Only on opaque directories; its value is `y`."""

Place = tuple[Node, bytes]
"""A name in a directory."""


def changed_tree(
    root: Node, number: int, given: Iterable[Place], removed: Iterable[Place], cut: Iterable[Node]
) -> Node:
    """Return the root of the tree of what layer `number` changed in the tree below `root`, which stays as it is.

    Args:
        root: The tree with the layer applied.
        number: The layer's position.
        given: The names that entries of the layer gave.
        removed: The lower names that went, with all below them; what has taken the place of one is among `given`.
        cut: Directories of lower layers that it made opaque.
    """
    copies = _Copies(root)
    for directory, name in given:
        child = directory.names().get(name)
        if child is None:
            continue
        if child.is_dir:
            copies.of(child)
        elif (copy := copies.of(directory)) is not None:
            copy.names()[name] = child
    for directory, name in removed:
        child = directory.names().get(name)
        if child is None:
            _set(copies.of(directory), name, _whiteout(number))
        elif child.is_dir:
            _mark_opaque(copies.of(child))
    for directory in cut:
        _mark_opaque(copies.of(directory))
    return copies.root


class _Copies:
    """Copies of directories, each with the children only that were placed in it."""

    def __init__(self, root: Node) -> None:
        self.root = _bare(root)
        self._copies = {root: self.root}

    def of(self, directory: Node) -> Node | None:
        """Return the copy of a directory, in its place below the root; None if it is no longer in the tree."""
        way = []
        while directory not in self._copies:
            if directory.parent is None or directory.parent.names().get(directory.name) is not directory:
                return None
            way.append(directory)
            directory = directory.parent
        copy = self._copies[directory]
        for below in reversed(way):
            self._copies[below] = _bare(below)
            copy.names()[below.name] = self._copies[below]
            copy = self._copies[below]
        return copy


def _bare(directory: Node) -> Node:
    """Return a directory of the same attributes, and empty."""
    copy = Node(
        directory.mode, layer=directory.layer, uid=directory.uid, gid=directory.gid, mtime_ns=directory.mtime_ns
    )
    copy.xattrs = directory.xattrs
    return copy


def _whiteout(number: int) -> Node:
    node = Node(stat.S_IFCHR, layer=number)
    node.xattrs = {WHITEOUT_XATTR: b""}
    return node


def _mark_opaque(copy: Node | None) -> None:
    if copy is not None:
        copy.xattrs = {**copy.xattrs, OPAQUE_XATTR: b"y"}


def _set(directory: Node | None, name: bytes, child: Node) -> None:
    if directory is not None:
        directory.names()[name] = child
