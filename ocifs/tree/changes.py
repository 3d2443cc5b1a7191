"""The changes of one layer as a separate tree: the names it adds, the names it removes, and the directories above them.

The tree has the format of an overlayfs upper layer (Linux Documentation/filesystems/overlayfs.rst, "whiteouts and
opaque directories"). A removed name is a character device 0:0. An extended attribute distinguishes it from a real
device of the image, because `merge` drops attributes of that name from images. A directory that hides all lower
content is marked opaque. Directories above a change belong to a lower layer and keep its number. This module does not
know how layers are applied.
"""

import stat
from collections.abc import Iterable

from ocifs.tree.node import Node

WHITEOUT_XATTR = b"trusted.overlay.whiteout"
"""Only on whiteouts; its value is empty."""
OPAQUE_XATTR = b"trusted.overlay.opaque"
"""Only on opaque directories; its value is `y`."""

Name = tuple[Node, bytes]
"""A name in a directory."""


def changed_tree(
    root: Node, number: int, added: Iterable[Name], removed: Iterable[Name], opaque: Iterable[Node]
) -> Node:
    """Return the root of a tree of what layer `number` changed in the tree below `root`, which stays unchanged.

    Args:
        root: The tree with the layer applied.
        number: The layer's position.
        added: The names of the layer's entries.
        removed: The lower names that it removed, with all below them; `added` has their replacements.
        opaque: Directories of lower layers that it made opaque.
    """
    copies = _Copies(root)
    for directory, name in added:
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
    for directory in opaque:
        _mark_opaque(copies.of(directory))
    return copies.root


class _Copies:
    """Copies of directories that contain only the changed children."""

    def __init__(self, root: Node) -> None:
        self.root = _bare(root)
        self._copies = {root: self.root}

    def of(self, directory: Node) -> Node | None:
        """Return the copy of a directory, linked below the root; None if it is no longer in the tree."""
        missing = []
        while directory not in self._copies:
            if directory.parent is None or directory.parent.names().get(directory.name) is not directory:
                return None
            missing.append(directory)
            directory = directory.parent
        copy = self._copies[directory]
        for child in reversed(missing):
            self._copies[child] = _bare(child)
            copy.names()[child.name] = self._copies[child]
            copy = self._copies[child]
        return copy


def _bare(directory: Node) -> Node:
    """Return an empty directory with the same attributes."""
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
