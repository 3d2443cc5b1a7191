"""The rows of a tree view: which directories are open, and which files a filter hides.

A directory is read when it is opened, a page of names at a time; its last row then stands for the rest. The module
knows nothing about screens.
"""

import itertools
from collections.abc import Callable, Iterator, Set
from typing import NamedTuple

from ocifs.report.overlay import Change, Compared, Overlay, Stack

_PAGE = 5000
"""Rows in one page of a directory."""
_LOOK = 50_000
"""Names read to fill a page."""

ALL_CHANGES: tuple[Change, ...] = ("added", "removed", "changed", "unchanged")


class OutlineDirectory(NamedTuple):
    """A directory whose entries are rows."""

    path: bytes
    """The path from the root, with a trailing slash; empty for the root."""
    depth: int
    """Depth of its entries."""
    stack: Stack
    """The directory itself; its size is the total to which the bars of its entries relate."""
    removed: bool


class Row(NamedTuple):
    """A row for a file."""

    parent: OutlineDirectory
    entry: Compared

    @property
    def path(self) -> bytes:
        """The path from the root, without a leading slash."""
        return self.parent.path + self.entry.name


class Rest(NamedTuple):
    """The unread rest of a directory."""

    parent: OutlineDirectory
    entries: Iterator[Compared]


class Outline:
    """The rows, from the top."""

    def __init__(self, page: int = _PAGE, look: int = _LOOK) -> None:
        self._page_size = page
        self._look = look
        self.rows: list[Row | Rest] = []
        self.hidden: Set[Change] = frozenset()
        """Kinds of changes that are hidden; directories that lead to visible files stay."""
        self.found: Set[bytes] | None = None
        """The paths to show; None: all."""
        self.size_of: Callable[[Stack], int | None] | None = None
        """Returns sizes, to sort directories with the largest first; None: sort them by name."""
        self._open: set[bytes] = set()
        self._overlay = Overlay(())

    def show(self, overlay: Overlay, before: Stack, after: Stack) -> None:
        """Show another tree, and keep the open directories open."""
        self._overlay = overlay
        top = OutlineDirectory(b"", 0, after, removed=False)
        self.rows = self._page(top, self._entries(before, after))

    def is_open(self, row: Row) -> bool:
        """Whether a row's directory is open."""
        return row.path in self._open

    def open(self, index: int) -> None:
        """Open the directory of a row, or read the next page of its rest."""
        row = self.rows[index]
        if isinstance(row, Rest):
            self.rows[index : index + 1] = self._page(row.parent, row.entries)
        elif row.entry.is_directory and not self.is_open(row):
            self._open.add(row.path)
            self.rows[index + 1 : index + 1] = self._below(row)

    def close(self, index: int) -> None:
        """Close a directory; the open state of directories below it is kept."""
        row = self.rows[index]
        if isinstance(row, Row) and self.is_open(row):
            self._open.discard(row.path)
            end = index + 1
            while end < len(self.rows) and self.rows[end].parent.depth > row.parent.depth:
                end += 1
            del self.rows[index + 1 : end]

    def close_all(self) -> None:
        """Close all directories but the root; call `show` to update the rows."""
        self._open.clear()

    def open_way(self) -> None:
        """Open all directories that lead to search results; call `show` to update the rows."""
        self._open |= {path.rpartition(b"/")[0] for path in self.found or () if b"/" in path}

    def parent(self, index: int) -> int:
        """Return the row of a row's parent directory, or the row itself at the top."""
        depth = self.rows[index].parent.depth
        return next((above for above in range(index, -1, -1) if self.rows[above].parent.depth < depth), index)

    def index(self, path: bytes) -> int:
        """Return the row of a path, of its nearest visible parent, or the first row."""
        places = {row.path: number for number, row in enumerate(self.rows) if isinstance(row, Row)}
        while path and path not in places:
            path = path.rpartition(b"/")[0]
        return places.get(path, 0)

    def _below(self, row: Row) -> list[Row | Rest]:
        entry = row.entry
        return self._page(_directory(row), self._entries(entry.before, entry.after))

    def _entries(self, before: Stack, after: Stack) -> Iterator[Compared]:
        """Yield the entries of a directory in order; sizes sort only so many names that a screen can wait."""
        entries = self._overlay.entries(before, after)
        size_of = self.size_of
        if size_of is None:
            yield from entries
            return
        while batch := list(itertools.islice(entries, self._look)):
            yield from sorted(batch, key=lambda entry: -(size_of(entry.shown) or 0))

    def _page(self, parent: OutlineDirectory, entries: Iterator[Compared]) -> list[Row | Rest]:
        """Return the next rows of a directory, including the content of open directories."""
        rows: list[Row | Rest] = []
        pending = [(parent, entries, 0)]
        while pending:
            parent, entries, given = pending.pop()
            for entry in itertools.islice(entries, self._look):
                row = Row(parent, entry)
                if not self._is_shown(row):
                    continue
                if given == self._page_size:
                    rows.append(Rest(parent, itertools.chain((entry,), entries)))
                    break
                rows.append(row)
                given += 1
                if self.is_open(row) and row.entry.is_directory:
                    pending.append((parent, entries, given))
                    pending.append((_directory(row), self._entries(entry.before, entry.after), 0))
                    break
            else:
                following = next(entries, None)
                if following is not None:
                    rows.append(Rest(parent, itertools.chain((following,), entries)))
        return rows

    def _is_shown(self, row: Row) -> bool:
        if self.found is not None and row.path not in self.found:
            return False
        change = row.entry.change
        if change == "changed" and row.entry.is_directory:
            return not self.hidden >= {"added", "removed", "changed"}
        return change not in self.hidden


def _directory(row: Row) -> OutlineDirectory:
    return OutlineDirectory(row.path + b"/", row.parent.depth + 1, row.entry.shown, removed=not row.entry.after)
