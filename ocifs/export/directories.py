"""The directories of an export in progress: identified by number, entered one step at a time.

Invariant: no path is ever assembled for the system. Each name is looked up in an open directory, and a symlink is never
followed. However deep the tree, each `Cursor` has one directory open.
"""

import os

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Directories:
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

    def __init__(self, directories: Directories, top: int) -> None:
        """Start at the open directory `top`; call `close` at the end."""
        self._directories = directories
        self._number = 0
        self._fd = os.dup(top)

    def at(self, number: int) -> int:
        """Move to a directory and return its descriptor, valid until the next move."""
        parents = self._directories.parents
        down = []
        while number != self._number:  # the larger number is not above the other
            if number > self._number:
                down.append(number)
                number = parents[number]
            else:
                self._move(b"..", parents[self._number])
        for below in reversed(down):
            self._move(self._directories.names[below], below)
        return self._fd

    def close(self) -> None:
        """Close the directory."""
        os.close(self._fd)

    def _move(self, name: bytes, number: int) -> None:
        moved = os.open(name, OPEN_DIRECTORY, dir_fd=self._fd)
        os.close(self._fd)
        self._fd, self._number = moved, number
