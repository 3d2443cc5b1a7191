"""A directory of files that is not trusted.

Files are opened below a directory descriptor, and only regular files are accepted: a FIFO must not block the reader,
and a link must not lead to a file elsewhere. Symlinks that stay below the directory are followed; those that leave it,
such as Bazel's, only if the user allows that. It does not know what the files mean.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Self

from ocifs import file_lock
from ocifs.atomic import atomic_file
from ocifs.errors import InvalidImageError, NotFoundError, OcifsError, printable_path, raise_if_short
from ocifs.reader import FileReader, ReaderAt

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40
"""Symlinks that are followed to open one file; Linux follows as many."""
_CHUNK = 1 << 20


class Directory:
    """An open directory and the files opened below it."""

    is_compressed = False

    def __init__(self, fd: int, name: str, *, follow_links: bool = False) -> None:
        self.name = name
        """Name in errors."""
        self._fd = fd
        self._follow_links = follow_links
        self._files = ExitStack()
        self._files.callback(os.close, fd)

    @classmethod
    def at(cls, path: str, *, follow_links: bool = False) -> Self:
        """Open the directory at `path`; with `follow_links`, symlinks may lead anywhere.

        Raises:
            NotFoundError: It cannot be opened.
        """
        try:
            return cls(os.open(path, _DIRECTORY), printable_path(path), follow_links=follow_links)
        except OSError as error:
            raise NotFoundError(f"cannot open {printable_path(path)} as a directory: {error.strerror}") from error

    def open(self, path: str) -> FileReader:
        """Return the file at `path` below the directory. `path` must not come from an image unless it was checked.

        Raises:
            NotFoundError: It cannot be opened.
            InvalidImageError: It is not a regular file, or a symlink on the way leads out of the directory.
            ShortageError: This process, or the system, has too many files open, or no memory.
        """
        try:
            with ExitStack() as stack:
                found = self._anywhere(path, stack) if self._follow_links else self._below(path, stack)
                if not stat.S_ISREG(os.fstat(found).st_mode):
                    raise InvalidImageError(f"{self.name}/{path} is not a regular file")
                fd = os.open(f"/proc/self/fd/{found}", _FILE)
                self._files.callback(os.close, fd)
        except OSError as error:
            raise_if_short(error)
            if error.errno == errno.ELOOP:
                raise InvalidImageError(
                    f"{self.name}/{path} is behind more than {_MAX_LINKS} symlinks: copy the image again"
                ) from error
            if error.errno == errno.ENOENT:
                raise NotFoundError(f"{self.name} has no {path}") from error
            raise NotFoundError(f"cannot open {self.name}/{path}: {error.strerror}") from error
        return FileReader(fd)

    def open_directory(self, path: str) -> int:
        """Return a descriptor of the directory at `path`, which is closed with this one; raises as `open`."""
        try:
            with ExitStack() as stack:
                found = self._below(path, stack)
                fd = os.open(".", _DIRECTORY, dir_fd=found)
                self._files.callback(os.close, fd)
        except OSError as error:
            raise_if_short(error)
            raise NotFoundError(f"cannot open {self.name}/{path}: {error.strerror}") from error
        return fd

    def _anywhere(self, path: str, stack: ExitStack) -> int:
        """Open `path` with O_PATH, wherever its symlinks lead."""
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC, dir_fd=self._fd)
        stack.callback(os.close, fd)
        return fd

    def _below(self, path: str, stack: ExitStack) -> int:
        """Open `path` with O_PATH, following symlinks that stay below the directory.

        Each name is looked up alone, in an open directory, and `..` returns to the open directory above it. So the
        kernel never resolves the text of a link, and a concurrent rename cannot lead out of the directory. An absolute
        link counts as one from the directory's root if it begins with the directory's own path.

        Raises:
            InvalidImageError: A link leads out.
            OSError: It cannot be opened.
        """
        opened = [self._fd]
        names = path.split("/")[::-1]
        links = 0
        while names:
            name = names.pop()
            if name == ".." and len(opened) == 1:
                raise self._leads_out(path)
            if name == "..":
                opened.pop()
            elif name not in ("", "."):
                fd = os.open(name, _LOOK, dir_fd=opened[-1])
                stack.callback(os.close, fd)
                if not stat.S_ISLNK(os.fstat(fd).st_mode):
                    opened.append(fd)
                    continue
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                target = os.readlink("", dir_fd=fd)
                if target.startswith("/"):
                    here = os.readlink(f"/proc/self/fd/{self._fd}")
                    if not f"{target}/".startswith(f"{here.rstrip('/')}/"):
                        raise self._leads_out(path)
                    target = target[len(here) :]
                    opened = [self._fd]
                names += target.split("/")[::-1]
        return opened[-1]

    def _leads_out(self, path: str) -> InvalidImageError:
        return InvalidImageError(
            f"{self.name}/{path} is a symlink that leads out of the layout: allow that with --follow-links, or copy "
            "the layout with its links followed (cp -RL)"
        )

    def write(self, path: str, blob: ReaderAt) -> None:
        """Write a file at `path` below the directory, atomically.

        Raises:
            OcifsError: It cannot be written.
        """
        parent, _, name = path.rpartition("/")
        try:
            with ExitStack() as stack:
                parent_fd = self._make(parent, stack)
                with atomic_file(parent_fd, name, 0o644) as file:
                    for offset in range(0, blob.size, _CHUNK):
                        file.write(blob.pread(_CHUNK, offset))
                os.fsync(parent_fd)
        except OSError as error:
            raise OcifsError(f"cannot write {self.name}/{path}: {error.strerror}") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the directory against other processes that change it under this lock.

        Raises:
            OcifsError: Another one has the lock and makes no progress, or the file system has no locks.
        """
        try:
            file_lock.lock(self._fd)
        except file_lock.StuckHolderError as stuck:
            raise OcifsError(
                f"cannot write to {self.name}: {stuck} while it writes there: continue it (kill -CONT) or end it, "
                "and try again"
            ) from None
        except OSError as error:
            raise OcifsError(f"cannot lock {self.name}: {error.strerror}") from None
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _make(self, path: str, stack: ExitStack) -> int:
        """Create and open the directory at `path`; symlinks must stay below, even with `follow_links`."""
        names = path.split("/") if path else []
        fd = self._fd
        for count, name in enumerate(names, 1):
            with suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=fd)
            fd = self._below("/".join(names[:count]), stack)
        directory = os.open(".", _DIRECTORY, dir_fd=fd)
        stack.callback(os.close, directory)
        return directory

    def close(self) -> None:
        """Close the directory and every file opened below it."""
        self._files.close()
