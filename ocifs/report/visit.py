"""A file that find visits, and the types of tests and actions."""

import stat
from collections.abc import Callable
from typing import Literal, Protocol

from ocifs.erofs.reader import Inode
from ocifs.image.rootfs import Rootfs
from ocifs.report.listing import Show, whiteout_name


class RecordFormat(Protocol):
    """What an action prints, with its end."""

    def record(self, visit: "Visit", show: Show) -> bytes:
        """Return it for a file; `show` converts names to their printable form."""
        ...


Action = Literal["print", "print0", "ls"] | RecordFormat


class Visit:
    """A file that find visits."""

    def __init__(self, rootfs: Rootfs, start: bytes, path: bytes, below: bytes, nid: int) -> None:
        """`path` is `start`, or `below` in it."""
        self.rootfs = rootfs
        self.start = start
        self.below = below
        self.path = path
        self.nid = nid
        self.depth = below.count(b"/") + 1 if below else 0
        self.pruned = False
        self.actions: list[Action] = []
        self._inode: Inode | None = None

    @property
    def inode(self) -> Inode:
        """Its attributes."""
        if self._inode is None:
            self._inode = self.rootfs.tree.inode(self.nid)
        return self._inode

    @property
    def target(self) -> bytes | None:
        """The target of a symlink; None for other files."""
        return self.rootfs.readlink(self.nid) if stat.S_ISLNK(self.inode.mode) else None

    @property
    def name(self) -> bytes:
        """The last component of its path."""
        return self.path.rstrip(b"/").rpartition(b"/")[2] or b"/"

    @property
    def printed(self) -> bytes:
        """The path for the printing actions; a whiteout has the name of its tar entry."""
        return whiteout_name(self.path) if self.rootfs.is_whiteout(self.inode) else self.path


Test = Callable[[Visit], bool]
