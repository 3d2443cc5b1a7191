"""A directory of files, opened as if a stranger had made it.

Files are opened below a directory descriptor, never through a symlink of their own, and only regular files are
accepted: a FIFO must not hang the reader, a link must not lead it to another's files. A directory on the way may
be a symlink as long as it stays below. What the files mean is for the caller.
"""

import errno
import os
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from ocifs.errors import InvalidImageError, NotFoundError, printable_path, raise_if_too_many_files
from ocifs.reader import FileReader

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Directory:
    """An open directory and the files opened below it."""

    def __init__(self, fd: int, name: str) -> None:
        self.name = name
        """What errors call it."""
        self._fd = fd
        self._files = ExitStack()
        self._files.callback(os.close, fd)

    @classmethod
    def at(cls, path: str) -> Self:
        """Open the directory at `path`.

        Raises:
            NotFoundError: It cannot be opened.
        """
        try:
            return cls(os.open(path, _DIRECTORY), printable_path(path))
        except OSError as error:
            raise NotFoundError(f"cannot open {printable_path(path)} as a directory: {error.strerror}") from error

    def open(self, path: str) -> FileReader:
        """Return the file at `path` below the directory; `path` is not from an image, or was checked.

        Raises:
            NotFoundError: It cannot be opened.
            InvalidImageError: It is no regular file, or not below the directory.
            TooManyFilesError: That is so.
        """
        parent, _, name = path.rpartition("/")
        try:
            with ExitStack() as stack:
                parent_fd = os.open(parent or ".", _DIRECTORY, dir_fd=self._fd)
                stack.callback(os.close, parent_fd)
                self._check_below(parent_fd, parent)
                fd = os.open(name, _FILE, dir_fd=parent_fd)
                self._files.callback(os.close, fd)
        except OSError as error:
            raise_if_too_many_files(error)
            if error.errno == errno.ELOOP:
                raise InvalidImageError(
                    f"{self.name}/{path} is a symlink: copy the layout with its links followed (cp -RL)"
                ) from error
            if error.errno == errno.ENOENT:
                raise NotFoundError(f"{self.name} has no {path}") from error
            raise NotFoundError(f"cannot open {self.name}/{path}: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidImageError(f"{self.name}/{path} is not a regular file")
        return FileReader(fd)

    def _check_below(self, fd: int, path: str) -> None:
        """Ask the kernel where the directories are: a path cannot change between check and use this way."""
        here, there = (Path(f"/proc/self/fd/{each}").readlink() for each in (self._fd, fd))
        if not there.is_relative_to(here):
            raise InvalidImageError(f"{self.name}/{path} is a symlink that leads out of the layout")

    def close(self) -> None:
        """Close the directory and every file opened below it."""
        self._files.close()
