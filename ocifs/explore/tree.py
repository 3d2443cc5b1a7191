"""The file pane: the tree as of a layer, with the changes of layers in colours and marks."""

from collections.abc import Callable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.events import Click
from textual.message import Message

from ocifs.errors import printable
from ocifs.explore.lines import Lines, Part, bar, cut
from ocifs.explore.outline import Outline, Row
from ocifs.report.listing import Listed
from ocifs.report.overlay import Change, Overlay, Sizes, Stack
from ocifs.report.text import short_size

_BAR = 4
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
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "tree--added",
        "tree--changed",
        "tree--removed",
        "tree--unchanged",
        "tree--faint",
        "tree--bar",
        "tree--directory",
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "look", "Open"),
        Binding("space", "switch", "Open or close", show=False),
        Binding("right,l", "into", "Into", show=False),
        Binding("left,h", "out", "Out", show=False),
        Binding("ctrl+@,ctrl+space,c", "close_all", "Close all", show=False),
        Binding("ctrl+a,a", "hide('added')", "Added", show=False),
        Binding("ctrl+r,r", "hide('removed')", "Removed", show=False),
        Binding("ctrl+m,m", "hide('changed')", "Changed", show=False),
        Binding("ctrl+u,u", "hide('unchanged')", "Unchanged", show=False),
        Binding("ctrl+b,b", "attributes", "Attributes"),
    ]

    class PreviewRequest(Message):
        """The user wants to preview a file."""

        def __init__(self, row: Row) -> None:
            super().__init__()
            self.row = row

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.outline = Outline()
        self.attributes: bool | None = None
        """Whether mode, owner and layer are visible; None: if the width allows."""
        self.overlay = Overlay(())
        self._before: Stack = ()
        self._after: Stack = ()
        self._sizes = Sizes(self.overlay)

    def show(self, overlay: Overlay, before: Stack, after: Stack) -> None:
        """Show a tree, and keep the cursor on its path."""
        self._sizes = Sizes(overlay)
        self.overlay, self._before, self._after = overlay, before, after
        self._rebuild()

    def show_sizes(self, sizes: Sizes) -> None:
        """Show the sizes of directories."""
        self._sizes = sizes
        self.refresh()

    def find(self, paths: frozenset[bytes] | None) -> None:
        """Show only these paths and move to the first match; None: show all."""
        self.outline.found = paths
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

    def count(self) -> int:
        """Return the number of rows."""
        return len(self.outline.rows)

    def parts(self, index: int, width: int) -> list[Part]:
        """Return a row."""
        row = self.outline.rows[index]
        indent = " " * (_INDENT * row.parent.depth)
        if not isinstance(row, Row):
            return [(" " * (_BAR + 9) + f"{indent}… Enter shows more, Ctrl+F finds", "tree--faint")]
        listed = Listed.of(self.overlay.rootfs(row.entry.shown), row.entry.name, row.entry.shown[-1][1])
        change = row.entry.change
        size = self._sizes.of(row.entry.shown)
        # A removed file is not part of a directory that still exists, but may be part of a removed one.
        whole = self._sizes.of(row.parent.stack) if change != "removed" or row.parent.removed else None
        marker = ("▾ " if self.outline.is_open(row) else "▸ ") if row.entry.is_directory else "  "
        target = "" if listed.target is None else f" -> {printable(listed.target)}"
        before = [
            (_MARKS[change] + " ", f"tree--{change}"),
            *([(_attributes(listed), "tree--faint")] if self._shows_attributes(width) else []),
            (f"{'…' if size is None else short_size(size):>5} ", "tree--faint"),
            (bar((size or 0) / whole if whole else 0, _BAR) + " ", "tree--bar"),
        ]
        room = width - sum(len(text) for text, _ in before)
        name = f"tree--{change}" + (" tree--directory" if row.entry.is_directory else "")
        return [*before, (cut(indent + marker + printable(row.entry.name) + target, max(0, room)), name)]

    def action_look(self) -> None:
        """Open or close a directory, load the rest of one, or preview a file."""
        row = self.current
        if row is None or row.entry.is_directory:
            self.action_switch()
        else:
            self.post_message(self.PreviewRequest(row))

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
        return width >= 70 if self.attributes is None else self.attributes

    def _change(self, change: Callable[[int], None]) -> None:
        if self.outline.rows:
            change(self.cursor)
            self.recount()

    def _rebuild(self) -> None:
        row = self.current if self.cursor < len(self.outline.rows) else None
        self.outline.show(self.overlay, self._before, self._after)
        self.recount(self.outline.index(row.path) if row else 0)


def _attributes(entry: Listed) -> str:
    inode = entry.inode
    return f"{entry.mode} {f'{inode.uid}:{inode.gid}':>9} L{inode.layer:<2} "
