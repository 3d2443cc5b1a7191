"""Directory listings in the arrangement of GNU ls(1): files first, then directories, each with a heading if needed.

Names are in the order of their bytes, as in the C locale. One directory is in memory at a time.
"""

import stat
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

from ocifs.errors import NotFoundError
from ocifs.image.rootfs import Rootfs
from ocifs.report.listing import Listed

Sort = Literal["name", "time", "size", "extension", "none"]
DotFiles = Literal["none", "almost", "all"]
"""Names with a dot to show: none, all but `.` and `..`, or all."""
Follow = Literal["none", "directories", "named"]
"""Symlinks among the operands to follow: none, those that lead to directories, or all."""
IndicatorStyle = Literal["none", "directories", "types"]
"""Characters to append to names: none, a slash to directories, or one for each type."""

_GAP = 2
_NARROWEST = 1 + _GAP
_MARKS = {stat.S_IFDIR: b"/", stat.S_IFLNK: b"@", stat.S_IFIFO: b"|", stat.S_IFSOCK: b"="}
_KEYS: dict[Sort, Callable[[Listed], object]] = {
    "name": lambda entry: entry.path,
    "time": lambda entry: (-entry.inode.mtime_ns, entry.path),
    "size": lambda entry: (-entry.inode.size, entry.path),
    "extension": lambda entry: (b"".join(entry.path.rpartition(b".")[1:]) if b"." in entry.path else b"", entry.path),
    "none": lambda entry: 0,
}


class Arrangement(msgspec.Struct, frozen=True, kw_only=True):
    """What to list, and in which order."""

    hidden: DotFiles = "none"
    itself: bool = False
    """List directories themselves, not their content."""
    recursive: bool = False
    sort: Sort = "name"
    reverse: bool = False
    directories_first: bool = False
    follow: Follow = "directories"


class Listing(NamedTuple):
    """The files among the operands, or the content of one directory."""

    heading: bytes | None
    """The path of the directory; None: it needs none."""
    directory: bytes
    """The directory to which the entries' paths are relative, as a path with a slash at its end, or empty."""
    below: bytes
    """The same, relative to the operand."""
    entries: Sequence[Listed]


def listings(rootfs: Rootfs, paths: Sequence[bytes], how: Arrangement) -> Iterator[Listing]:
    """Yield the listings of `paths`; all are looked up before the first is yielded.

    Raises:
        NotFoundError: A path does not exist.
    """
    operands = [_operand(rootfs, path, how) for path in paths]
    files = [entry for entry in operands if how.itself or not stat.S_ISDIR(entry.inode.mode)]
    directories = [entry for entry in operands if stat.S_ISDIR(entry.inode.mode) and not how.itself]
    if files:
        yield Listing(None, b"", b"", _sorted(files, how))
    headed = how.recursive or len(operands) > 1
    for operand in _sorted(directories, how):
        yield from _listings(rootfs, operand, how, headed=headed)


def _operand(rootfs: Rootfs, path: bytes, how: Arrangement) -> Listed:
    entry = Listed.of(rootfs, path, rootfs.lookup(path, follow=how.follow == "named"))
    if how.follow == "directories" and entry.target is not None:
        target = _target(rootfs, path)
        if target is not None and stat.S_ISDIR(rootfs.tree.inode(target).mode):
            return Listed.of(rootfs, path, target)
    return entry


def _listings(rootfs: Rootfs, operand: Listed, how: Arrangement, *, headed: bool) -> Iterator[Listing]:
    pending = [(operand.path, b"", operand.inode.nid)]
    top = _with_slash(operand.path)
    while pending:
        heading, below, nid = pending.pop()
        entries = _sorted(list(_entries(rootfs, nid, how.hidden)), how)
        yield Listing(heading if headed else None, top + below, below, entries)
        if how.recursive:
            pending += [
                (top + below + entry.path, below + entry.path + b"/", entry.inode.nid)
                for entry in reversed(entries)
                if stat.S_ISDIR(entry.inode.mode) and entry.path not in {b".", b".."}
            ]


def _entries(rootfs: Rootfs, nid: int, hidden: DotFiles) -> Iterator[Listed]:
    for name, child, _, _ in rootfs.tree.readdir(nid):
        if hidden == "all" or not name.startswith(b".") or (hidden == "almost" and name not in {b".", b".."}):
            yield Listed.of(rootfs, name, child)


def _sorted(entries: list[Listed], how: Arrangement) -> list[Listed]:
    if how.sort != "none":
        entries = sorted(entries, key=_KEYS[how.sort], reverse=how.reverse)  # type: ignore[arg-type] # keys of one kind
    if how.directories_first:
        entries.sort(key=lambda entry: not stat.S_ISDIR(entry.inode.mode))
    return entries


def mark(rootfs: Rootfs, directory: bytes, entry: Listed, marks: IndicatorStyle, *, long: bool) -> bytes:
    """Return the character that `ls -F` or `ls -p` appends to a name; after a link's target, that of the target."""
    mode = entry.inode.mode
    if long and entry.target:
        target = _target(rootfs, directory + entry.path)
        mode = 0 if target is None else rootfs.tree.inode(target).mode
    if marks == "none" or (marks == "directories" and not stat.S_ISDIR(mode)):
        return b""
    return _MARKS.get(stat.S_IFMT(mode), b"*" if stat.S_ISREG(mode) and mode & 0o111 else b"")


def columns(cells: Sequence[tuple[bytes, int]], width: int) -> Iterator[bytes]:
    """Yield lines with the cells in as many columns as fit; each cell has its text and the width of it on a terminal.

    The order is down each column. `width` is that of the terminal.
    """
    if not cells:
        return
    for count in range(min(len(cells), max(1, (width + _GAP) // _NARROWEST)), 0, -1):
        rows = -(-len(cells) // count)
        widths = [max(size for _, size in cells[top : top + rows]) + _GAP for top in range(0, len(cells), rows)]
        if sum(widths) - _GAP <= width or count == 1:
            break
    for row in range(rows):
        line = cells[row::rows]
        padded = [text + b" " * (wide - size) for (text, size), wide in zip(line[:-1], widths, strict=False)]
        yield b"".join(padded) + line[-1][0]


def text_width(name: bytes) -> int:
    """Return the width of a printable name on a terminal."""
    text = name.decode(errors="replace")
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )


def _target(rootfs: Rootfs, path: bytes) -> int | None:
    try:
        return rootfs.lookup(path)
    except NotFoundError:
        return None


def _with_slash(path: bytes) -> bytes:
    return path if path.endswith(b"/") else path + b"/"
