"""The shape of a tree that can be compiled: what the writer reads of a node, and nothing of how it came to be."""

from collections.abc import Mapping, Sequence
from typing import Protocol


class Extent(Protocol):
    """Where a regular file's bytes lie: in the uncompressed tar stream of one layer."""

    @property
    def layer(self) -> int:
        """Position of the layer in the image."""
        ...

    @property
    def offset(self) -> int:
        """Byte offset in the layer's tar stream."""
        ...

    @property
    def size(self) -> int:
        """Bytes stored there."""
        ...

    @property
    def sparse(self) -> Sequence[tuple[int, int]] | None:
        """(offset in the file, length) of each piece, in the order they are stored; None: not sparse."""
        ...


class Node(Protocol):
    """One inode. Hard links are one node under several names, told by its identity."""

    number: int
    """Scratch of the writer; any value before."""

    @property
    def mode(self) -> int:
        """Type and permissions, as in `st_mode`."""
        ...

    @property
    def layer(self) -> int:
        """Position in the image of the layer that the file is from."""
        ...

    @property
    def uid(self) -> int:
        """User id."""
        ...

    @property
    def gid(self) -> int:
        """Group id."""
        ...

    @property
    def mtime_ns(self) -> int:
        """Nanoseconds since the epoch."""
        ...

    @property
    def size(self) -> int:
        """Of a regular file: its length in bytes, holes included."""
        ...

    @property
    def rdev(self) -> tuple[int, int]:
        """Of a device: major and minor."""
        ...

    @property
    def target(self) -> bytes:
        """Of a symlink: its target."""
        ...

    @property
    def xattrs(self) -> Mapping[bytes, bytes]:
        """Extended attributes, by their whole name."""
        ...

    @property
    def extent(self) -> Extent | None:
        """Of a regular file: its bytes; None when it has none."""
        ...

    @property
    def children(self) -> "Mapping[bytes, Node] | None":
        """Of a directory: name to node, in no particular order; None for all else."""
        ...
