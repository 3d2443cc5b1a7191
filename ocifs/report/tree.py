"""Draw a directory and everything below it, like tree(1)."""

import stat
from collections.abc import Iterator

import msgspec

from ocifs.errors import NotFoundError
from ocifs.image.rootfs import Rootfs
from ocifs.report.listing import Listed, Paint, Show, members, shown_with_target
from ocifs.report.text import short_size

_LAST = ("└── ", "    ")
_OTHER = ("├── ", "│   ")


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
    for name, child, _, _ in rootfs.tree.readdir(nid):
        if name not in {b".", b".."} and (chosen.dotted or not name.startswith(b".")):
            entry = Listed.of(rootfs, prefix + name, child)
            counts = _is_directory(entry) or (
                entry.target is not None and _leads_to_directory(rootfs, base + entry.path)
            )
            if counts or not chosen.directories_only:
                found.append((entry, counts))
    return found[::-1]


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
    count_files: bool = True
    """Count files in the last line; directories always count."""


def tree_lines(drawn: Iterator[Branch], show: Show, paint: Paint, columns: Columns) -> Iterator[bytes]:
    """Yield the lines of the drawing; the last line counts its entries, including the top directory."""
    directories = files = 0
    for branch in drawn:
        entry = branch.entry
        if branch.counts_as_directory:
            directories += 1
        else:
            files += 1
        size = short_size(entry.inode.size) if columns.human else str(entry.inode.size)
        column = f"[{size:>{4 if columns.human else 11}}]  ".encode() if columns.sizes or columns.human else b""
        # An entry below the top shows only its last component.
        name = entry if not branch.depth else msgspec.structs.replace(entry, path=entry.path.rpartition(b"/")[2])
        yield branch.indent.encode() + column + shown_with_target(name, show, paint)
    yield b""
    count = _counted(directories, "directory", "directories")
    yield (f"{count}, {_counted(files, 'file', 'files')}" if columns.count_files else count).encode()


def _counted(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def to_json(branch: Branch) -> bytes:
    """Return a JSON object on one line."""
    return msgspec.json.encode(members(branch.entry) | {"depth": branch.depth})
