"""A directory and all below it, drawn in the manner of tree(1)."""

import stat
from collections.abc import Iterator

import msgspec

from ocifs.image.rootfs import Rootfs
from ocifs.report.listing import Listed, Paint, Show, members, shown_with_target
from ocifs.report.text import short_size

_LAST = ("└── ", "    ")
_OTHER = ("├── ", "│   ")


class Branch(msgspec.Struct, frozen=True):
    """A file, and where it hangs in the drawing."""

    entry: Listed
    """Its path is below the directory that is drawn, which itself has the path it was given by."""
    indent: str = ""
    """What is drawn before it."""
    depth: int = 0


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """What of a tree is drawn."""

    levels: int | None = None
    """How deep; None: all."""
    directories_only: bool = False
    dotted: bool = False
    """Names that begin with a dot as well."""


def branches(rootfs: Rootfs, path: bytes, chosen: Chosen) -> Iterator[Branch]:
    """Give the directory at `path`, then all below it, depth first and by name.

    Raises:
        NotFoundError: There is nothing at `path`.
    """
    nid = rootfs.lookup(path)
    yield Branch(Listed.of(rootfs, path, nid))
    if not stat.S_ISDIR(rootfs.tree.inode(nid).mode) or chosen.levels == 0:
        return
    pending = [("", _below(rootfs, nid, b"", chosen)[::-1])]
    while pending:
        indent, left = pending[-1]
        if not left:
            pending.pop()
            continue
        entry = left.pop()
        bar, further = _OTHER if left else _LAST
        yield Branch(entry, indent + bar, len(pending))
        if stat.S_ISDIR(entry.inode.mode) and len(pending) != chosen.levels:
            pending.append((indent + further, _below(rootfs, entry.inode.nid, entry.path + b"/", chosen)[::-1]))


def _below(rootfs: Rootfs, nid: int, prefix: bytes, chosen: Chosen) -> list[Listed]:
    return [
        entry
        for name, child, _, _ in rootfs.tree.readdir(nid)
        if name not in {b".", b".."} and (chosen.dotted or not name.startswith(b"."))
        if not chosen.directories_only or stat.S_ISDIR(rootfs.tree.inode(child).mode)
        for entry in (Listed.of(rootfs, prefix + name, child),)
    ]


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown of each file besides its name, and what is counted."""

    sizes: bool = False
    """In bytes."""
    human: bool = False
    """Sizes with a unit."""
    count_files: bool = True
    """In the last line; directories are counted in any case."""


def tree_lines(drawn: Iterator[Branch], show: Show, paint: Paint, columns: Columns) -> Iterator[bytes]:
    """Give the lines of the drawing; the last one counts what is in it, the directory that is drawn included."""
    directories = files = 0
    for branch in drawn:
        entry = branch.entry
        if stat.S_ISDIR(entry.inode.mode):
            directories += 1
        else:
            files += 1
        size = short_size(entry.inode.size) if columns.human else str(entry.inode.size)
        column = f"[{size:>{4 if columns.human else 11}}]  ".encode() if columns.sizes or columns.human else b""
        # What lies below is shown by its name alone.
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
