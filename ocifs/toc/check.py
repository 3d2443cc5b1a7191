"""Validate entries from another source than `scan` by the same rules, before their use."""

from collections.abc import Iterable

from ocifs.errors import InvalidImageError, printable
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.toc import field
from ocifs.toc.entry import BLOCK, CHARACTER, DIRECTORY, FIFO, HARDLINK, REGULAR, SYMLINK, Entry


def check_entries(entries: Iterable[Entry], size: int, limits: Limits = DEFAULT_LIMITS) -> None:
    """Check that `scan` could return these entries for a tar stream of `size` bytes.

    Raises:
        InvalidImageError: It could not.
        LimitError: They exceed one of `limits`.
    """
    pieces = 0
    for number, entry in enumerate(entries):
        if number == limits.entries:
            raise limits.passed("entries", f"more than {number} tar entries")
        pieces += len(entry.sparse or ())
        if pieces > limits.sparse_pieces:
            raise limits.passed("sparse_pieces", f"sparse files of {pieces} pieces")
        try:
            _check(entry, size, limits)
        except InvalidImageError as error:
            raise InvalidImageError(f"entry '{printable(entry.path[: field.NAME_MAX])}': {error}") from None


def _check(entry: Entry, size: int, limits: Limits) -> None:
    field.check_path(entry.path)
    if not entry.path and entry.kind != DIRECTORY:
        raise InvalidImageError("an empty name, though it is not a directory")
    field.check_owner(entry.uid, entry.gid)
    if not (0 <= entry.kind <= FIFO and 0 <= entry.mode <= 0o7777 and -(2**63) <= entry.mtime_ns <= field.INT64_MAX):
        raise InvalidImageError("an invalid kind, mode or time")
    if any(not 0 < len(name) <= field.NAME_MAX or b"\0" in name for name in entry.xattrs):
        raise InvalidImageError("an extended attribute with an invalid name")
    total = sum(len(name) + len(value) for name, value in entry.xattrs.items())
    if total > limits.xattrs:
        raise limits.passed("xattrs", f"{total} bytes of extended attributes")
    if entry.kind in {HARDLINK, SYMLINK}:
        field.check_target(entry.linkname)
    elif entry.linkname:
        raise InvalidImageError("a target, though it is not a link")
    if entry.kind in {CHARACTER, BLOCK}:
        if not (0 <= entry.rdev[0] < 1 << 12 and 0 <= entry.rdev[1] < 1 << 20):
            raise InvalidImageError("an invalid device number")
    elif entry.rdev != (0, 0):
        raise InvalidImageError("a device number, though it is not a device")
    _check_data(entry, size)


def _check_data(entry: Entry, size: int) -> None:
    field.check_size(entry.size)
    if entry.kind != REGULAR:
        if (entry.size, entry.offset, entry.stored, entry.sparse) != (0, 0, 0, None):
            raise InvalidImageError("bytes, though it is not a regular file")
        return
    if entry.offset % 512 or not 0 <= entry.offset <= entry.offset + entry.stored <= size:
        raise InvalidImageError("bytes outside the tar stream")
    if entry.sparse is None:
        if entry.stored != entry.size:
            raise InvalidImageError(f"a size of {entry.size} bytes, but {entry.stored} bytes stored")
        return
    end = 0
    for offset, length in entry.sparse:
        if offset < end or length <= 0 or offset + length > entry.size:
            raise InvalidImageError("a sparse map whose pieces overlap or lie outside the file")
        end = offset + length
    if sum(length for _, length in entry.sparse) != entry.stored:
        raise InvalidImageError("a sparse map of another length than its data")
