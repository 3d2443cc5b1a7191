"""The directories of an export in progress: identified by number, entered one step at a time.

Invariant: no path is ever assembled for the system. Each name is looked up in an open directory, and a symlink is never
followed. However deep the tree, each `Cursor` has one directory open. It only returns to directories from which it
came, even if another process moves one of them.
"""

import errno
import os

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class DirectoryTable:
    """Number to nid, name and parent. Number 0 is the top, and each number exceeds its parent's."""

    def __init__(self, nid: int) -> None:
        self.nids = [nid]
        self.names = [b""]
        self.parents = [0]

    def __len__(self) -> int:
        return len(self.nids)

    def add(self, nid: int, name: bytes, parent: int) -> int:
        """Register a directory and return its number."""
        self.nids.append(nid)
        self.names.append(name)
        self.parents.append(parent)
        return len(self.nids) - 1

    def path(self, number: int, name: bytes = b"") -> bytes:
        """Return the path of a file below the top, for a message."""
        names = [name]
        while number:
            names.append(self.names[number])
            number = self.parents[number]
        return b"/" + b"/".join(reversed(names))


class Cursor:
    """One open directory that moves through the tree."""

    def __init__(self, directories: DirectoryTable, top: int) -> None:
        """Start at the open directory `top`; call `close` at the end."""
        self._directories = directories
        self._number = 0
        self._fd = os.dup(top)
        self._above: list[tuple[int, int]] = []
        """Device and inode number of each directory above."""

    def at(self, number: int) -> int:
        """Move to a directory and return its descriptor, valid until the next move."""
        parents = self._directories.parents
        down = []
        while number != self._number:  # the larger number is not above the other
            if number > self._number:
                down.append(number)
                number = parents[number]
            else:
                self._ascend(parents[self._number])
        for below in reversed(down):
            self._descend(below)
        return self._fd

    def close(self) -> None:
        """Close the directory."""
        os.close(self._fd)

    def _descend(self, number: int) -> None:
        below = os.open(self._directories.names[number], OPEN_DIRECTORY, dir_fd=self._fd)
        self._above.append(_identity(self._fd))
        self._enter(below, number)

    def _ascend(self, number: int) -> None:
        self._enter(os.open(b"..", OPEN_DIRECTORY, dir_fd=self._fd), number)
        if _identity(self._fd) != self._above.pop():
            raise OSError(errno.ESTALE, "another process moves its directories")

    def _enter(self, fd: int, number: int) -> None:
        os.close(self._fd)
        self._fd, self._number = fd, number


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
