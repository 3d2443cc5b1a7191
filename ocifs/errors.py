"""What can go wrong, told by what the user can do about it.

Every error that ocifs raises on purpose is an `OcifsError`. Its text is one line that names the blob, entry or
option at fault and, where there is one, the way out; it never holds a control character taken from an image.
The command line turns the class into an exit code (`exit_code`); nothing else is derived from the class.
"""

import errno
import os
import resource

_TOO_MANY_FILES = frozenset({errno.EMFILE, errno.ENFILE})
"""Of an OSError: it says nothing of what could not be opened."""

_NO_THREAD = "can't start new thread"
"""What CPython says in a RuntimeError when the system gives no thread."""


_NOT_MAPPED = "failed to map segment from shared object"
"""What glibc says, and CPython in an ImportError, when there is no memory for a library."""


def printable(name: bytes) -> str:
    """Return `name` for a message: UTF-8 where it is, and no control characters (terminal injection)."""
    text = name.decode("utf-8", "backslashreplace")
    return (
        text
        if text.isprintable()
        else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    )


def printable_path(path: str) -> str:
    """Return a path or another argument of the user's for a message."""
    return printable(os.fsencode(path))


class OcifsError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class NotFoundError(OcifsError, LookupError):
    """A reference, tag, platform, blob or path that is not there: name another."""

    exit_code = 3


class InvalidImageError(OcifsError, ValueError):
    """Bytes that are not what they claim to be: fetch or build the image again."""

    exit_code = 4


class UnsupportedError(OcifsError):
    """A well-formed thing that ocifs does not handle: convert the image."""

    exit_code = 5


class LimitError(OcifsError):
    """A bound that protects memory or disk was reached: raise the limit if the image is trusted."""

    exit_code = 6


class ShortageError(LimitError):
    """No memory, thread or open file is left for this process: raise that limit, whatever the image is."""


class TooManyFilesError(ShortageError):
    """More files would have to be open than this process may have: raise the limit, `ulimit -n`."""


def too_many_files() -> TooManyFilesError:
    """Return the error for when no more files can be opened."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return TooManyFilesError(
        f"too many open files: {allowed} are allowed, an image takes two for each layer: raise the limit (ulimit -n)"
    )


def raise_if_too_many_files(error: Exception) -> None:
    """Raise TooManyFilesError if `error` says that no more files can be opened: nothing else is wrong then."""
    if isinstance(error, ShortageError):
        raise error
    if isinstance(error, OSError) and error.errno in _TOO_MANY_FILES:
        raise too_many_files() from None


def shortage(error: Exception) -> ShortageError | None:
    """Return what to tell the user if `error` says that no file, thread or memory is left; None for other errors."""
    if isinstance(error, ShortageError):
        return error
    if isinstance(error, OSError) and error.errno in _TOO_MANY_FILES:
        return too_many_files()
    if (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, ImportError) and _NOT_MAPPED in str(error))
    ):
        return ShortageError("out of memory: raise the limit (ulimit -v, MemoryMax)")
    if isinstance(error, ImportError):  # of a part of ocifs or of what it depends on, where it was found until now
        raise_limits = "raise the limits on open files and memory (ulimit -n, ulimit -v), or install ocifs again"
        return ShortageError(f"cannot load {printable_path(error.name or 'a module')}: {raise_limits}")
    if isinstance(error, RuntimeError) and str(error) == _NO_THREAD:
        return ShortageError("no more threads: raise the limit (ulimit -u, TasksMax, pids.max, ulimit -v)")
    return None


def raise_if_short(error: Exception) -> None:
    """Raise ShortageError if `error` says that no file, thread or memory is left: nothing else is wrong then."""
    if (short := shortage(error)) is not None:
        raise short from None


class MountError(OcifsError):
    """The mountpoint, `/dev/fuse` or fusermount3 does not allow the mount."""

    exit_code = 7


class StoreError(OcifsError):
    """The cache directory cannot be used: name another with `--cache-dir`."""

    exit_code = 8


class RegistryError(OcifsError):
    """A registry cannot be reached, or refuses: try again later, or log in."""

    exit_code = 9
