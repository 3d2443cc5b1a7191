"""The file pane: the tree as of a layer, with the changes of layers in colours and marks."""

import re
from collections.abc import Callable, Iterator
from typing import ClassVar

from rich.cells import cell_len
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.message import Message

from ocifs.errors import printable
from ocifs.explore.file_view import FileAt
from ocifs.explore.lines import Lines, StyledText, bar, bar_width, cut_parts
from ocifs.explore.outline import Outline, Row
from ocifs.report.listing import Listed
from ocifs.report.overlay import Change, Overlay, Sizes, Stack
from ocifs.report.text import human_size

_ATTRIBUTES = 26
"""Columns of mode, owner and layer."""
_ATTRIBUTED = 78
"""Columns from which mode, owner and layer are visible."""
_BEGIN = 12
"""Columns of the mark, the size and blanks."""
_INDENT = 2
_MARKS: dict[Change, str] = {"added": "+", "changed": "~", "removed": "-", "unchanged": " "}


class TreePane(Lines):
    """The file pane. It reads only open directories and visible rows."""

    DEFAULT_CSS = """
    TreePane .tree--added { color: $text-success; }
    TreePane .tree--changed { color: $text-warning; }
    TreePane .tree--removed { color: $text-error; }
    TreePane .tree--faint { color: $foreground-darken-3; }
    TreePane .tree--bar { color: $primary; }
    TreePane .tree--directory { text-style: bold; }
    TreePane .tree--match { text-style: reverse; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "tree--added",
        "tree--changed",
        "tree--removed",
        "tree--unchanged",
        "tree--faint",
        "tree--bar",
        "tree--directory",
        "tree--match",
    }
    _HIDE = Binding.Group("Show/hide", compact=True)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "look", "Open"),
        Binding("space", "switch", "Open or close", show=False),
        Binding("right,l", "into", "Into", show=False),
        Binding("left,h", "out", "Out", show=False),
        Binding("c,ctrl+@,ctrl+space", "close_all", "Close all", show=False),
        Binding("a,ctrl+a", "hide('added')", "Added", group=_HIDE),
        Binding("r,ctrl+r", "hide('removed')", "Removed", group=_HIDE),
        Binding("m,ctrl+m", "hide('changed')", "Changed", group=_HIDE),
        Binding("u,ctrl+u", "hide('unchanged')", "Unchanged", group=_HIDE),
        Binding("s", "sort", "Sort"),
        Binding("e,ctrl+e", "app.copy_out", "Copy out"),
        Binding("b,ctrl+b", "attributes", "Attributes", show=False),
    ]

    class PreviewRequest(Message):
        """The user wants to preview a file."""

        def __init__(self, file: FileAt) -> None:
            super().__init__()
            self.file = file

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.outline = Outline()
        self.attributes: bool | None = None
        """Whether mode, owner and layer are visible; None: if the width allows."""
        self.overlay = Overlay(())
        self.matched: re.Pattern[bytes] | None = None
        """The pattern whose matches are highlighted."""
        self._before: Stack = ()
        self._after: Stack = ()
        self._sizes = Sizes(self.overlay)
        self._longest = 0
        """Columns of the longest name, with its indentation."""

    def show(self, overlay: Overlay, before: Stack, after: Stack) -> None:
        """Show a tree, and keep the cursor on its path."""
        self.overlay, self._before, self._after = overlay, before, after
        self._use(Sizes(overlay))
        self._rebuild()

    def show_sizes(self, sizes: Sizes) -> None:
        """Show the sizes of directories."""
        self._use(sizes)
        if self.outline.size_of is None:
            self.refresh()
        else:
            self._rebuild()

    def find(self, paths: frozenset[bytes] | None, pattern: re.Pattern[bytes] | None) -> None:
        """Show only these paths, highlight what matches in them, and move to the first match; None: show all."""
        self.outline.found = paths
        self.matched = pattern
        self.outline.open_way()
        self._rebuild()
        if paths:
            rows = enumerate(self.outline.rows)
            self.move(next((index for index, row in rows if isinstance(row, Row) and not self.outline.is_open(row)), 0))

    @property
    def current(self) -> Row | None:
        """The file under the cursor."""
        row = self.outline.rows[self.cursor] if self.outline.rows else None
        return row if isinstance(row, Row) else None

    @property
    def is_removed(self) -> bool:
        """Whether the file under the cursor is no longer in the tree."""
        row = self.current
        return row is not None and not row.entry.after

    @property
    def file(self) -> FileAt | None:
        """The file under the cursor, as it was before it was removed if it was."""
        row = self.current
        shown = row.entry.shown if row else ()
        return FileAt(self.overlay.rootfs(shown), row.path, shown[-1][1]) if row and shown else None

    def recount(self, cursor: int | None = None) -> None:
        """Refresh after the rows have changed."""
        names = (
            _INDENT * (row.parent.depth + 1) + cell_len(printable(row.entry.name))
            for row in self.outline.rows
            if isinstance(row, Row)
        )
        self._longest = max(names, default=0)
        super().recount(cursor)

    def count(self) -> int:
        """Return the number of rows."""
        return len(self.outline.rows)

    def parts(self, index: int, width: int) -> list[StyledText]:
        """Return a row."""
        row = self.outline.rows[index]
        attributed = self._shows_attributes(width)
        bars = bar_width(width - _BEGIN - _ATTRIBUTES * attributed, self._longest)
        indent = " " * (_INDENT * row.parent.depth)
        if not isinstance(row, Row):
            return [(" " * (bars + _BEGIN) + f"{indent}… Enter shows more, / finds", "tree--faint")]
        listed = Listed.of(self.overlay.rootfs(row.entry.shown), row.entry.name, row.entry.shown[-1][1])
        change = row.entry.change
        size = self._sizes.of(row.entry.shown)
        # A removed file is not part of a directory that still exists, but may be part of a removed one.
        whole = self._sizes.of(row.parent.stack) if change != "removed" or row.parent.removed else None
        marker = ("▾ " if self.outline.is_open(row) else "▸ ") if row.entry.is_directory else "  "
        target = "" if listed.target is None else f" -> {printable(listed.target)}"
        before = [
            (_MARKS[change] + " ", f"tree--{change}"),
            *([(_attributes(listed), "tree--faint")] if attributed else []),
            (f"{'…' if size is None else human_size(size):>8} ", "tree--faint"),
            (bar((size or 0) / whole if whole else 0, bars) + " ", "tree--bar"),
        ]
        room = width - sum(len(text) for text, _ in before)
        style = f"tree--{change}" + (" tree--directory" if row.entry.is_directory else "")
        name = [(text, f"{style} tree--match" if matched else style) for text, matched in self._name_parts(row)]
        return [*before, *cut_parts([(indent + marker, style), *name, (target, style)], room)]

    def action_look(self) -> None:
        """Open or close a directory, load the rest of one, or preview a file."""
        row = self.current
        if row is None or row.entry.is_directory:
            self.action_switch()
        else:
            file = self.file
            if file is not None:
                self.post_message(self.PreviewRequest(file))

    def action_switch(self) -> None:
        """Open or close the directory under the cursor."""
        row = self.current
        if row is not None and self.outline.is_open(row):
            self._change(self.outline.close)
        else:
            self._change(self.outline.open)

    def action_into(self) -> None:
        """Open a directory; if it is open, move into it."""
        row = self.current
        if row is not None and self.outline.is_open(row):
            self.move(self.cursor + 1)
        else:
            self._change(self.outline.open)

    def action_out(self) -> None:
        """Close a directory; if it is closed, move to its parent."""
        row = self.current
        if row is not None and self.outline.is_open(row):
            self._change(self.outline.close)
        else:
            self.move(self.outline.parent(self.cursor) if self.outline.rows else 0)

    def action_close_all(self) -> None:
        """Close all directories."""
        self.outline.close_all()
        self._rebuild()

    def action_hide(self, change: Change) -> None:
        """Hide or show files with one kind of change."""
        self.outline.hidden ^= {change}
        self._rebuild()

    def action_sort(self) -> None:
        """Sort by size, the largest first, or again by name."""
        self.outline.size_of = self._sizes.of if self.outline.size_of is None else None
        self._rebuild()

    def action_attributes(self) -> None:
        """Show or hide mode, owner and layer."""
        self.attributes = not self._shows_attributes(self.size.width)
        self.refresh()

    def on_click(self, event: Click) -> None:
        """Move to the clicked row; a second click opens it."""
        before = self.cursor
        super().on_click(event)
        if self.cursor == before and event.chain > 1:
            self.action_look()

    def _shows_attributes(self, width: int) -> bool:
        return width >= _ATTRIBUTED if self.attributes is None else self.attributes

    def _use(self, sizes: Sizes) -> None:
        self._sizes = sizes
        if self.outline.size_of is not None:
            self.outline.size_of = sizes.of

    def _name_parts(self, row: Row) -> Iterator[tuple[str, bool]]:
        """Yield the name in printable pieces, and whether the pattern matches there."""
        name, start = row.entry.name, len(row.parent.path)
        done = 0
        for match in self.matched.finditer(row.path) if self.matched else ():
            first, last = (_boundary(name, max(done, place - start)) for place in match.span())
            if first < last:
                yield printable(name[done:first]), False
                yield printable(name[first:last]), True
                done = last
        yield printable(name[done:]), False

    def _change(self, change: Callable[[int], None]) -> None:
        if self.outline.rows:
            change(self.cursor)
            self.recount()

    def _rebuild(self) -> None:
        row = self.current if self.cursor < len(self.outline.rows) else None
        self.outline.show(self.overlay, self._before, self._after)
        self.recount(self.outline.index(row.path) if row else 0)


def _boundary(name: bytes, place: int) -> int:
    """Return the nearest place from `place` on that does not split a UTF-8 character."""
    while place < len(name) and name[place] & 0xC0 == 0x80:
        place += 1
    return min(place, len(name))


def _attributes(entry: Listed) -> str:
    inode = entry.inode
    return f"{entry.mode} {f'{inode.uid}:{inode.gid}':>9} L{inode.layer:<2} "
