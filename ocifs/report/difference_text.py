"""Render the differences of two trees: as lines, as JSON, and as totals."""

import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from ocifs.report.difference import Aspect, Change, Difference
from ocifs.report.listing import Listed, Paint, Show, members, named, shown_time, shown_with_target, size_or_device
from ocifs.report.text import human_size

CHANGES: tuple[Change, ...] = ("added", "removed", "changed")


def difference_line(difference: Difference, show: Show, paint: Paint) -> bytes:
    """Return the change, the path, and the differing aspects of a changed file."""
    entry = difference.after or difference.before
    if entry is None:
        raise ValueError("a difference of nothing")
    line = f"{difference.change:7}  ".encode()
    if difference.before is None or difference.after is None:
        return line + shown_with_target(entry, show, paint)
    told = (_told(aspect, difference.before, difference.after, show) for aspect in difference.aspects)
    return line + paint(show(entry.path), entry) + b"  (" + b", ".join(told) + b")"


def _told(aspect: Aspect, before: Listed, after: Listed, show: Show) -> bytes:
    match aspect:
        case "content":
            return b"content"
        case "xattr":
            return b"xattr " + b" ".join(map(show, _changed_keys(before.xattrs or {}, after.xattrs or {})))
        case "target":
            return b"target " + show(before.target or b"") + b" -> " + show(after.target or b"")
    old, new = _value(aspect, before), _value(aspect, after)
    if old == new:  # times that differ within a second
        old, new = (f"{value}.{e.inode.mtime_ns % 10**9:09}" for value, e in ((old, before), (new, after)))
    return f"{aspect} {old} -> {new}".encode()


def _value(aspect: Aspect, entry: Listed) -> str:
    inode = entry.inode
    match aspect:
        case "type":
            return entry.type
        case "mode":
            return f"{stat.S_IMODE(inode.mode):04o}"
        case "owner":
            return f"{inode.uid}:{inode.gid}"
        case "mtime":
            return f"{shown_time(inode.mtime_ns)}:{inode.mtime_ns // 10**9 % 60:02}"
        case _:
            return size_or_device(inode).replace(" ", "")


def _changed_keys(before: Mapping[bytes, bytes], after: Mapping[bytes, bytes]) -> list[bytes]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


class Operand(NamedTuple):
    """One side of a comparison."""

    image: bytes
    start: bytes
    """The path in it that is compared."""

    def named(self, below: bytes, show: Show) -> bytes:
        """Return IMAGE:/PATH of a file `below` the start."""
        return show(self.image) + b":/" + show((self.start.rstrip(b"/") + b"/" + below.lstrip(b"/")).strip(b"/"))


def brief_lines(found: Iterable[Difference], before: Operand, after: Operand, show: Show) -> Iterator[bytes]:
    """Yield a line for each difference, as `diff -rq` of GNU writes it.

    A directory that only one image has takes one line, like one that is a file in the other.
    """
    alone: set[tuple[bytes, Change]] = set()
    for each in found:
        below = each.path.removeprefix(before.start)
        old, new = (operand.named(below, show) for operand in (before, after))
        if each.before is None or each.after is None:
            alone.add((each.path, each.change))
            directory, _, name = (old if each.after is None else new).rpartition(b"/")
            if (each.path.rpartition(b"/")[0], each.change) not in alone:
                yield b"Only in %b: %b" % (directory + b"/" * directory.endswith(b":"), name)
        elif "type" in each.aspects:
            alone |= {(each.path, "added"), (each.path, "removed")}
            kinds = (_KINDS.get(entry.type, entry.type).encode() for entry in (each.before, each.after))
            yield b"File %b is a %b while file %b is a %b" % (old, next(kinds), new, next(kinds))
        else:
            yield b"Files %b and %b differ" % (old, new)


_KINDS = {
    "regular": "regular file",
    "symlink": "symbolic link",
    "character": "character special file",
    "block": "block special file",
}
"""Words of GNU tools for types of files."""


def to_json(difference: Difference) -> bytes:
    """Return a JSON object on one line."""
    fields = named("path", difference.path) | {"change": difference.change}
    if difference.aspects:
        fields["aspects"] = difference.aspects
    for side, entry in (("before", difference.before), ("after", difference.after)):
        if entry is not None:
            fields[side] = {key: value for key, value in members(entry).items() if not key.startswith("path")}
    return msgspec.json.encode(fields)


class DifferenceTotal(msgspec.Struct):
    """The sum of some differences."""

    files: int = 0
    """Names, of files of any type."""
    bytes: int = 0
    """The growth of the regular files among them; negative if they shrank."""


Totals = dict[Change, DifferenceTotal]


def add_up(found: Iterable[Difference]) -> dict[bytes, Totals]:
    """Return the totals for each directory below the root, and for files in the root itself (`/`).

    A file with several names counts once.
    """
    totals: dict[bytes, Totals] = {}
    seen: set[tuple[Change, int]] = set()
    for difference in found:
        names = difference.path.split(b"/")
        directory = b"/".join(names[:2]) if len(names) > 2 or _is_directory(difference) else b""
        total = totals.setdefault(directory or b"/", {change: DifferenceTotal() for change in CHANGES})[
            difference.change
        ]
        total.files += 1
        entry = difference.after or difference.before
        if entry is not None and (difference.change, entry.inode.nid) not in seen:
            total.bytes += _size(difference.after) - _size(difference.before)
            if entry.inode.nlink > 1:
                seen.add((difference.change, entry.inode.nid))
    return totals


def _is_directory(difference: Difference) -> bool:
    entry = difference.after or difference.before
    return entry is not None and stat.S_ISDIR(entry.inode.mode)


def _size(entry: Listed | None) -> int:
    return entry.inode.size if entry is not None and stat.S_ISREG(entry.inode.mode) else 0


def totals_lines(totals: Mapping[bytes, Totals], show: Show) -> Iterator[bytes]:
    """Yield a table: a line for each directory, and one for the total."""
    everything = {change: DifferenceTotal() for change in CHANGES}
    for each in totals.values():
        for change, total in each.items():
            everything[change].files += total.files
            everything[change].bytes += total.bytes
    rows: list[tuple[bytes, Totals]] = [*sorted(totals.items()), (b"total", everything)]
    columns = [_column(change, [row[change] for _, row in rows]) for change in CHANGES]
    for cells, name in zip(zip(*columns, strict=True), [b"directory", *(show(name) for name, _ in rows)], strict=True):
        yield "   ".join(cells).encode() + b"   " + name


def _column(change: Change, totals: Sequence[DifferenceTotal]) -> list[str]:
    """Return the cells of each change, with its name as heading, padded to one width."""
    files = max(len(str(total.files)) for total in totals)
    sizes = max(len(_signed(total.bytes)) for total in totals)
    cells = [change, *(f"{total.files:>{files}}  {_signed(total.bytes):>{sizes}}" for total in totals)]
    width = max(map(len, cells))
    return [cell.rjust(width) for cell in cells]


def _signed(size: int) -> str:
    return ("-" if size < 0 else "+") + human_size(abs(size)) if size else "0 B"


def totals_json(directory: bytes, totals: Totals) -> bytes:
    """Return a JSON object on one line."""
    return msgspec.json.encode(named("path", directory) | {change: totals[change] for change in CHANGES})
