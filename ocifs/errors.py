"""Exceptions, with one class for each action that the user can take.

Every error that ocifs raises on purpose is an `OcifsError`. Its text is one line that names the blob, entry or option
at fault and, if possible, what to do. It never contains a control character from an image. The command line maps the
class to an exit status (`exit_code`); nothing else depends on the class.
"""

import errno
import os
import resource

_TOO_MANY_FILES = frozenset({errno.EMFILE, errno.ENFILE})
"""errno values that do not depend on the file that could not be opened."""

_NO_THREAD = "can't start new thread"
"""Text of CPython's RuntimeError if the system refuses a thread."""


_NO_EXCEPTION = ("without setting an exception", "error return without exception set")
"""What the interpreter says of its own functions when there is no memory even for a MemoryError."""
_NOT_MAPPED = "failed to map segment from shared object"
"""Text of glibc, in CPython's ImportError, if there is no memory for a library."""


_EXTRAS = {
    "fastcrc": ("podman", "tar-split for podman"),
    "grpc": ("containerd", "ocifs snapshotter"),
    "pyfuse3": ("fuse", "the fuse engine"),
    "textual": ("tui", "ocifs explore"),
    "trio": ("fuse", "the fuse engine"),
}
"""Optional dependencies: the extra in pyproject.toml that installs each, and what needs it."""


def printable(name: bytes) -> str:
    """Return `name` for a message, decoded as UTF-8; escape other bytes and control characters (terminal injection)."""
    text = name.decode("utf-8", "backslashreplace")
    return (
        text
        if text.isprintable()
        else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    )


def printable_path(path: str) -> str:
    """Return a path or another argument from the user for a message."""
    return printable(os.fsencode(path))


def counted(number: int, one: str, several: str = "") -> str:
    """Return a number with its noun, such as `1 span`; `several` is the plural if that is not `one` with an s."""
    return f"{number} {one if number == 1 else several or one + 's'}"


class OcifsError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class NotFoundError(OcifsError, LookupError):
    """A reference, tag, platform, blob or path does not exist: name another."""

    exit_code = 3


class InvalidImageError(OcifsError, ValueError):
    """Malformed data, or data with another digest: fetch or build the image again."""

    exit_code = 4


class UnsupportedError(OcifsError):
    """Well-formed data that ocifs does not support: convert the image."""

    exit_code = 5


class MissingExtraError(UnsupportedError):
    """An optional dependency is not installed: install the extra of ocifs that has it."""


class LimitError(OcifsError):
    """The image exceeds a bound that protects memory or disk: raise the limit if you trust the image."""

    exit_code = 6


class ShortageError(LimitError):
    """The system gives this process no more memory, threads or open files: raise that limit."""


class TooManyFilesError(ShortageError):
    """The process may not open more files: raise the limit, `ulimit -n`."""


def too_many_files() -> TooManyFilesError:
    """Return the error for too many open files."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return TooManyFilesError(
        f"too many open files: {allowed} are allowed, an image needs two for each layer: raise the limit (ulimit -n)"
    )


def shortage(error: Exception) -> ShortageError | None:
    """Return the ShortageError for an `error` due to a lack of files, threads or memory; None for other errors."""
    if isinstance(error, ShortageError):
        return error
    if isinstance(error, OSError) and error.errno in _TOO_MANY_FILES:
        return too_many_files()
    if (
        isinstance(error, MemoryError)
        or (isinstance(error, SystemError) and any(each in str(error) for each in _NO_EXCEPTION))
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
    """Raise ShortageError if `error` is due to a lack of files, threads or memory."""
    if (short := shortage(error)) is not None:
        raise short from None


def missing_extra(error: Exception) -> MissingExtraError | None:
    """Return the MissingExtraError for an `error` due to an optional dependency; None for other errors."""
    if not isinstance(error, ModuleNotFoundError) or error.name not in _EXTRAS:
        return None
    extra, user = _EXTRAS[error.name]
    return MissingExtraError(f"{user} needs {error.name}, which is not installed: pip install 'ocifs[{extra}]'")


class MountError(OcifsError):
    """The mountpoint, `/dev/fuse` or fusermount3 does not allow the mount."""

    exit_code = 7


class StoreError(OcifsError):
    """The cache directory is unusable: name another with `--cache-dir`."""

    exit_code = 8


class RegistryError(OcifsError):
    """A registry is unreachable or refuses the request: try again later, or log in."""

    exit_code = 9
