"""A node of the merged tree: an inode before it has a number.

A node is a file, not a name: hard links are one node under several names. A node has its attributes and the position
of its bytes. This module knows nothing of tar, of whiteouts or of how the tree is stored.
"""

import stat
from collections.abc import Mapping
from types import MappingProxyType

import msgspec

_NONE: Mapping[bytes, bytes] = MappingProxyType({})


class Extent(msgspec.Struct, frozen=True, gc=False):
    """The position of a regular file's bytes in the uncompressed tar stream of one layer."""

    layer: int
    """Position of the layer in the manifest, the base layer being 0."""
    offset: int
    """Byte offset in the layer's uncompressed tar stream."""
    size: int
    """Bytes stored there; fewer than the node's size if it is sparse."""
    sparse: tuple[tuple[int, int], ...] | None = None
    """(offset in the file, length) of each stored piece, in stored order; None if the file is not sparse."""


class Node:
    """One inode. `mode` holds type and permissions as in `st_mode`; times are ns since the epoch."""

    __slots__ = (
        "children",
        "content",
        "extent",
        "gid",
        "layer",
        "mode",
        "mtime_ns",
        "name",
        "number",
        "parent",
        "rdev",
        "size",
        "target",
        "uid",
        "xattrs",
    )

    def __init__(self, mode: int, *, layer: int = 0, uid: int = 0, gid: int = 0, mtime_ns: int = 0) -> None:
        self.mode = mode
        self.layer = layer
        """The layer whose entry set the node's current attributes."""
        self.uid = uid
        self.gid = gid
        self.mtime_ns = mtime_ns
        self.size = 0
        self.rdev: tuple[int, int] = (0, 0)
        """(major, minor) of a device."""
        self.target = b""
        """Target of a symlink, as stored."""
        self.xattrs = _NONE
        self.extent: Extent | None = None
        """None unless it is a regular file with bytes in a layer."""
        self.content = b""
        """All bytes of a regular file that no layer has."""
        self.children: dict[bytes, Node] | None = {} if stat.S_ISDIR(mode) else None
        """Name to node, in no particular order; None unless it is a directory."""
        self.parent: Node | None = None
        """Parent and name are set for directories only: other nodes may have several."""
        self.name = b""
        self.number = 0
        """Scratch space of the code that numbers the nodes of a tree."""

    @property
    def is_dir(self) -> bool:
        """Whether the node is a directory."""
        return self.children is not None

    def names(self) -> dict[bytes, "Node"]:
        """Return the children of a directory. Raises TypeError for another file."""
        if self.children is None:
            raise TypeError("not a directory")
        return self.children
