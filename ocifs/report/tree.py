"""Draw a directory and everything below it, like tree(1)."""

import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from ocifs.erofs.format import DIRECTORY
from ocifs.erofs.reader import Inode
from ocifs.errors import NotFoundError, counted
from ocifs.image.rootfs import Rootfs
from ocifs.report.listing import Indicator, Listed, Paint, Show, members, shown_with_target, unmarked
from ocifs.report.text import short_size

_LAST = ("└── ", "    ")
_OTHER = ("├── ", "│   ")


NamePattern = Callable[[bytes, bool], bool]
"""Returns whether a name, perhaps of a directory, matches."""


def parse_pattern(text: str, *, ignore_case: bool = False) -> NamePattern:
    """Parse a pattern of tree(1): globs with `|` between them; one with a slash at its end matches directories only."""
    globs = text.split("|")
    flags = re.IGNORECASE if ignore_case else 0
    every, directories = (
        re.compile("|".join(map(fnmatch.translate, some)) or "(?!)", flags)
        for some in (
            [glob for glob in globs if not glob.endswith("/")],
            [glob[:-1] for glob in globs if glob.endswith("/")],
        )
    )

    def matches(name: bytes, is_directory: bool) -> bool:
        shown = os.fsdecode(name)
        return every.match(shown) is not None or (is_directory and directories.match(shown) is not None)

    return matches


class Branch(msgspec.Struct, frozen=True):
    """A file and its position in the drawing."""

    entry: Listed
    """Its path is relative to the drawn directory, which itself has the path given by the caller."""
    counts_as_directory: bool
    """Whether it is a directory, or a symlink to one inside the image."""
    indent: str = ""
    """The line drawing in front of the name."""
    depth: int = 0


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a tree to draw."""

    levels: int | None = None
    """The maximal depth; None: unlimited."""
    directories_only: bool = False
    """Include only directories, and symlinks to directories."""
    dotted: bool = False
    """Include names that begin with a dot."""
    directories_first: bool = False
    """Draw the directories of a directory before its files."""
    wanted: NamePattern | None = None
    """Include only files that match, and all directories."""
    ignored: NamePattern | None = None
    """Leave out files and directories that match."""


def branches(rootfs: Rootfs, path: bytes, chosen: Chosen) -> Iterator[Branch]:
    """Yield the directory at `path`, then everything below it, depth first and by name.

    Raises:
        NotFoundError: `path` does not exist.
    """
    nid = rootfs.lookup(path)
    base = b"".join(name + b"/" for name in rootfs.canonical(path + b"/"))
    top = Listed.of(rootfs, path, nid)
    yield Branch(top, _is_directory(top))
    if not _is_directory(top) or chosen.levels == 0:
        return
    pending = [("", _below(rootfs, nid, b"", chosen, base))]
    while pending:
        indent, left = pending[-1]
        if not left:
            pending.pop()
            continue
        entry, counts = left.pop()
        bar, further = _OTHER if left else _LAST
        yield Branch(entry, counts, indent + bar, len(pending))
        if _is_directory(entry) and len(pending) != chosen.levels:
            pending.append((indent + further, _below(rootfs, entry.inode.nid, entry.path + b"/", chosen, base)))


def _below(rootfs: Rootfs, nid: int, prefix: bytes, chosen: Chosen, base: bytes) -> list[tuple[Listed, bool]]:
    """Return the drawn entries of a directory in reverse order, and whether each counts as a directory."""
    found = []
    for name, child, file_type in rootfs.tree.entries(nid):
        if _is_drawn(name, chosen, is_directory=file_type == DIRECTORY):
            entry = Listed.of(rootfs, prefix + name, child)
            counts = _is_directory(entry) or (
                entry.target is not None and _leads_to_directory(rootfs, base + entry.path)
            )
            if counts or not chosen.directories_only:
                found.append((entry, counts))
    if chosen.directories_first:
        found.sort(key=lambda each: not each[1])
    return found[::-1]


def _is_drawn(name: bytes, chosen: Chosen, *, is_directory: bool) -> bool:
    if name.startswith(b".") and not chosen.dotted:
        return False
    if chosen.ignored is not None and chosen.ignored(name, is_directory):
        return False
    return is_directory or chosen.wanted is None or chosen.wanted(name, False)  # noqa: FBT003


def _is_directory(entry: Listed) -> bool:
    return stat.S_ISDIR(entry.inode.mode)


def _leads_to_directory(rootfs: Rootfs, path: bytes) -> bool:
    try:
        return stat.S_ISDIR(rootfs.tree.inode(rootfs.lookup(path)).mode)
    except NotFoundError:
        return False


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """What to show beside each name, and what to count."""

    sizes: bool = False
    """Show sizes in bytes."""
    human: bool = False
    """Show sizes with units."""
    modes: bool = False
    """Show type and permissions."""
    count_files: bool = True
    """Count files in the last line; directories always count."""
    full: bool = False
    """Show paths instead of names."""
    indent: bool = True
    """Draw the lines of the tree."""
    report: bool = True
    """Print the last line."""
    totals: Mapping[int, int] | None = None
    """Sizes of directories with everything below them, by nid; shown instead of their own."""

    def beside(self, inode: Inode) -> bytes:
        """Return what stands before a name."""
        cells = [stat.filemode(inode.mode)] if self.modes else []
        if self.sizes or self.human or self.totals is not None:
            cells.append(f"{self.size(inode):>{4 if self.human else 11}}")
        return f"[{' '.join(cells)}]  ".encode() if cells else b""

    def size(self, inode: Inode) -> str:
        """Return the size to show."""
        size = inode.size if self.totals is None else self.totals.get(inode.nid, inode.size)
        return short_size(size) if self.human else str(size)


def directory_totals(drawn: Iterable[Branch]) -> dict[int, int]:
    """Return the size of each directory in a drawing, including everything that is drawn below it."""
    totals: dict[int, int] = {}
    above: list[int] = []
    for branch in drawn:
        inode = branch.entry.inode
        del above[branch.depth :]
        for nid in above:
            totals[nid] += inode.size
        if _is_directory(branch.entry):
            above.append(inode.nid)
            totals[inode.nid] = inode.size
    return totals


def tree_lines(
    drawn: Iterable[Branch], show: Show, paint: Paint, columns: Columns, mark: Indicator = unmarked
) -> Iterator[bytes]:
    """Yield the lines of the drawing; the last line counts its entries, including each top directory.

    `mark` returns what follows the name of an entry, whose path is complete.
    """
    directories = files = size = 0
    top = b""
    for branch in drawn:
        entry = branch.entry
        if branch.counts_as_directory:
            directories += 1
        else:
            files += 1
        if not branch.depth:
            size += (columns.totals or {}).get(entry.inode.nid, entry.inode.size)
            top = entry.path if entry.path.endswith(b"/") else entry.path + b"/"
        else:
            entry = msgspec.structs.replace(entry, path=top + entry.path)
        after = b"" if entry.path.endswith(b"/") else mark(entry)
        if branch.depth and not columns.full:
            entry = msgspec.structs.replace(entry, path=entry.path.rpartition(b"/")[2])
        indent = branch.indent.encode() if columns.indent else b""
        yield indent + columns.beside(entry.inode) + shown_with_target(entry, show, paint) + after
    if columns.report:
        yield b""
        count = counted(directories, "directory", "directories")
        used = "" if columns.totals is None else f"{short_size(size) if columns.human else f'{size} bytes'} used in "
        found = f"{count}, {counted(files, 'file')}" if columns.count_files else count
        yield (used + found).encode()


def to_json(branch: Branch) -> bytes:
    """Return a JSON object on one line."""
    return msgspec.json.encode(members(branch.entry) | {"depth": branch.depth})
