"""The target of an export: built under a temporary name beside its path, and renamed when complete.

Invariant: the target is unchanged, or the complete export; every failure removes the temporary file. Only the target's
own path, given by the user, is ever used as a string. Everything below it is reached by file descriptors.
"""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from ocifs.atomic import atomic_file, atomic_rename
from ocifs.descriptor import opened
from ocifs.errors import OcifsError, printable_path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BUFFER = 1 << 20


def check_new_directory(target: str) -> None:
    """Raise OcifsError unless `target` is an empty directory, or absent in an existing directory."""
    real = os.path.realpath(target)
    status = _status(target)
    if status is None:
        return
    if not stat.S_ISDIR(status.st_mode):
        raise OcifsError(f"{printable_path(target)} exists and is not a directory: name a new or empty one")
    if os.path.ismount(real) or os.path.samefile(real, "."):
        # A rename over either would not be visible there.
        what = "a mountpoint" if os.path.ismount(real) else "the current directory"
        raise OcifsError(f"{printable_path(target)} is {what}: name a new directory in it")
    if os.listdir(real):
        raise OcifsError(f"{printable_path(target)} is not empty: name a new or empty directory")


def check_new_file(target: str, *, replace: bool = False) -> None:
    """Raise OcifsError unless `target` is an empty regular file, absent in a directory, or any file to `replace`."""
    status = _status(target)
    if status is not None and ((status.st_size and not replace) or not stat.S_ISREG(status.st_mode)):
        raise OcifsError(f"{printable_path(target)} exists: name a new file")


@contextmanager
def new_directory(target: str) -> Iterator[int]:
    """Yield a new, empty, open directory that is closed to other users; on success it becomes `target`.

    Raises:
        OcifsError: The target exists, or cannot be created.
    """
    check_new_directory(target)
    with _parent(target) as (parent, name), atomic_rename(parent, name, _remove_tree) as temporary:
        os.mkdir(temporary, 0o700, dir_fd=parent)
        with opened(temporary, _DIRECTORY, dir_fd=parent) as fd:
            yield fd


@contextmanager
def new_file(target: str, *, replace: bool = False) -> Iterator[BinaryIO]:
    """Yield a new, empty file; on success it becomes `target`, and is on disk.

    Raises:
        OcifsError: The target exists, or cannot be created.
    """
    check_new_file(target, replace=replace)
    with _parent(target) as (parent, name), atomic_file(parent, name, buffering=_BUFFER) as file:
        yield file


@contextmanager
def staging_directory(target: str) -> Iterator[tuple[int, int]]:
    """Yield the open existing directory `target`, and an open directory in it that is closed to other users.

    The latter is removed at the end, with everything that is still in it.

    Raises:
        OcifsError: `target` cannot be written.
    """
    with _open_parent(target, os.path.realpath(target)) as into:
        name = f".ocifs-{secrets.token_hex(8)}"
        os.mkdir(name, 0o700, dir_fd=into)
        try:
            with opened(name, _DIRECTORY, dir_fd=into) as staged:
                yield into, staged
        finally:
            with suppress(FileNotFoundError):
                _remove_tree(name, into)


def _status(target: str) -> os.stat_result | None:
    if not target:
        raise OcifsError("the target has an empty name")
    try:
        return os.stat(target)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OcifsError(f"{printable_path(target)}: {error.strerror}") from None


@contextmanager
def _parent(target: str) -> Iterator[tuple[int, str]]:
    """Yield the target's open parent directory, and its name there. Raises OcifsError for any OSError inside."""
    directory, name = os.path.split(os.path.realpath(target))
    with _open_parent(target, directory) as parent:
        yield parent, name


@contextmanager
def _open_parent(target: str, directory: str) -> Iterator[int]:
    """Yield the open directory in which `target` is written. Raises OcifsError for any OSError inside."""
    try:
        parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise OcifsError(f"{printable_path(directory)}: {error.strerror}") from None
    try:
        yield parent
    except OSError as error:
        raise OcifsError(f"{printable_path(target)}: {error.strerror}") from error
    finally:
        os.close(parent)


def _remove_tree(name: str, parent: int) -> None:
    """Remove a directory tree of any depth and with any modes, with one descriptor at a time."""
    here = _open(name, parent)
    way: list[str] = []
    try:
        while (below := _empty(here)) is not None or way:
            there = _open(below, here) if below is not None else os.open("..", _DIRECTORY, dir_fd=here)
            os.close(here)
            here = there
            if below is not None:
                way.append(below)
            else:
                os.rmdir(way.pop(), dir_fd=here)
    finally:
        os.close(here)
    os.rmdir(name, dir_fd=parent)


def _empty(directory: int) -> str | None:
    """Remove files from a directory until none is left, or until a directory is found: then return its name."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                return entry.name
            os.unlink(entry.name, dir_fd=directory)
    return None


def _open(name: str, parent: int) -> int:
    """Open a directory of this user that may be closed to its owner."""
    with opened(name, os.O_PATH | _DIRECTORY, dir_fd=parent) as by_name:
        os.chmod(f"/proc/self/fd/{by_name}", 0o700)
        return os.open(".", _DIRECTORY, dir_fd=by_name)
