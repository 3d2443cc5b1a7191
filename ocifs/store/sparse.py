"""Sparse files of the cache, of which any part may be missing; a complete one becomes an entry.

Several processes may fill the same file. Nothing in it is verified until a reader does that. A store without a
directory has sparse files in memory.
"""

import contextlib
import os

from ocifs.store.entry import Kind, StoredFile, file_name, footer, open_checked, sized
from ocifs.store.store import Store


def open_sparse(store: Store, kind: Kind, complete: Kind, subject: str, size: int) -> StoredFile:
    """Return a readable and writable file of `size` bytes; any part of it may be missing, and is then zero.

    The content is unverified: readers verify what they read. Other processes may write to it at the same time, the
    same bytes at the same offsets. After `finish_sparse`, the file becomes an entry of the kind `complete`.

    `size` is unverified too, so it is part of the file's name: another claimed size never truncates a file.
    """
    if (file := open_finished(store, kind, complete, subject, size)) is not None:
        return file
    if store.opened is not None:
        name = file_name(kind, sized(subject, size))
        try:
            fd = store.opened.open_file(name, os.O_RDWR | os.O_CREAT)
            if os.fstat(fd).st_size < size:  # another process is finishing a longer one
                os.truncate(fd, size)
            os.utime(fd)
        except OSError as error:
            store.warn_of(error, store.directory)
        else:
            store.prune(store.max_size, keep=name)
            return StoredFile(fd, 0, size)
    fd = os.memfd_create("ocifs")
    os.truncate(fd, size)
    return StoredFile(fd, 0, size)


def open_finished(store: Store, kind: Kind, complete: Kind, subject: str, size: int) -> StoredFile | None:
    """If the sparse file of `kind` is finished, turn it into an entry of the kind `complete` and return that."""
    if store.opened is None:
        return None
    name = file_name(kind, sized(subject, size))
    file = open_checked(store.opened, name, complete, subject)
    if file is not None:
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            store.opened.rename(name, file_name(complete, subject))
    return file


def is_finished(fd: int, kind: Kind, subject: str, size: int) -> bool:
    """Return whether a process has called `finish_sparse` for an open file. Raises OSError."""
    end = footer(kind, subject, size, 0)
    return os.pread(fd, len(end) + 1, size) == end


def finish_sparse(fd: int, kind: Kind, subject: str, size: int) -> None:
    """Mark a sparse file as a complete entry of `kind`, which must be a kind that is not checked."""
    end = footer(kind, subject, size, 0)
    os.fsync(fd)
    os.pwrite(fd, end, size)
    os.truncate(fd, size + len(end))  # removes any damage behind the footer
