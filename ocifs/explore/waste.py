"""The waste pane: hidden files by directory, the largest first."""

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

from rich.cells import cell_len, set_cell_size
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message

from ocifs.errors import printable
from ocifs.explore.file_view import FileAt
from ocifs.explore.lines import Lines, StyledText, bar, bar_width, cut
from ocifs.image.opening import Image
from ocifs.report.text import human_size
from ocifs.report.waste import Hidden, Waste, waste
from ocifs.report.waste_directories import HiddenDirectory, by_directory

_BEGIN = 10
"""Columns of the size and blanks."""


class Audit(NamedTuple):
    """What an image hides."""

    waste: Waste
    directories: list[HiddenDirectory]


def audit(image: Image) -> Audit:
    """Find what is hidden in an image; it reads the entries of all layers."""
    found = waste(image)
    return Audit(found, by_directory(found.hidden))


class WasteRow(NamedTuple):
    """A row for a directory, or for a hidden file in it."""

    directory: HiddenDirectory
    file: Hidden | None


class WastePane(Lines):
    """The waste pane. Its rows are directories, and the files of the open ones."""

    DEFAULT_CSS = """
    WastePane .waste--faint { color: $foreground-darken-3; }
    WastePane .waste--bar { color: $primary; }
    WastePane .waste--directory { text-style: bold; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {"waste--faint", "waste--bar", "waste--directory", "waste--file"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "look", "Open"),
        Binding("space,right,l,left,h", "switch", "Open or close", show=False),
        Binding("e,ctrl+e", "app.copy_out", "Copy out"),
        Binding("escape", "app.waste", "Files"),
    ]

    class PreviewRequest(Message):
        """The user wants to preview a hidden file."""

        def __init__(self, file: FileAt) -> None:
            super().__init__()
            self.file = file

    def __init__(self, image: Image, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._image = image
        self._directories: list[HiddenDirectory] | None = None
        self._open: set[bytes] = set()
        self.rows: list[WasteRow] = []
        self._longest = 0
        """Columns of the longest text of a row."""
        self.border_title = "Hidden bytes: adding up …"

    @property
    def is_known(self) -> bool:
        """Whether it shows what the image hides."""
        return self._directories is not None

    def show(self, found: Audit) -> None:
        """Show what an image hides."""
        self._directories = found.directories
        stored = sum(layer.stored for layer in found.waste.layers)
        hidden = sum(layer.hidden for layer in found.waste.layers)
        share = f", {hidden / stored:.1%} of {human_size(stored)} in layers" if hidden else ""
        self.border_title = Content(f"{human_size(hidden)} hidden{share}")
        dive = found.waste.efficiency
        self.border_subtitle = Content(f"dive: efficiency {dive.score:.4f}, {human_size(dive.wasted_bytes)} wasted")
        self._rebuild()

    @property
    def file(self) -> FileAt | None:
        """The hidden file under the cursor."""
        hidden = self.rows[self.cursor].file if self.rows else None
        if hidden is None:
            return None
        rootfs = self._image.changes(hidden.layer)
        return FileAt(rootfs, hidden.path.lstrip(b"/"), rootfs.lookup(hidden.path, follow=False))

    def describe(self) -> str:
        """Return printable lines about the row under the cursor."""
        if not self.rows:
            return "No layer hides a file of an earlier layer" if self.is_known else ""
        directory, hidden = self.rows[self.cursor]
        if hidden is not None:
            by = f"stored by layer {hidden.layer}, {hidden.how} by layer {hidden.by}"
            return f"{hidden.size:,} bytes\n{by}\n{printable(hidden.path)}"
        stored = "\n".join(f"{human_size(size)} of layer {layer}" for layer, size in directory.stored().items())
        return f"{printable(directory.path)}\n{_files(len(directory.files))}, hidden\n{stored}"

    def count(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def parts(self, index: int, width: int) -> list[StyledText]:
        """Return a row."""
        row = self.rows[index]
        directory, hidden = row
        if hidden is None:
            size, whole = directory.size, self.rows[0].directory.size
        else:
            size, whole = hidden.size, directory.size
        name, note = self._text(row)
        columns = bar_width(width - _BEGIN, self._longest)
        room = max(0, width - _BEGIN - columns - cell_len(note))
        return [
            (f"{human_size(size):>8} ", "waste--faint"),
            (bar(size / whole, columns) + " ", "waste--bar"),
            (set_cell_size(cut(name, room), room), "waste--directory" if hidden is None else "waste--file"),
            (note, "waste--faint"),
        ]

    def action_look(self) -> None:
        """Open or close a directory, or preview a file."""
        file = self.file
        if file is not None:
            self.post_message(self.PreviewRequest(file))
        else:
            self.action_switch()

    def action_switch(self) -> None:
        """Open or close the directory under the cursor, or the one of the file there."""
        if self.rows:
            path = self.rows[self.cursor].directory.path
            self._open ^= {path}
            self._rebuild()
            self.move(next(place for place, row in enumerate(self.rows) if row.directory.path == path))

    def _text(self, row: WasteRow) -> tuple[str, str]:
        """Return the name of a row, and the note behind it."""
        directory, hidden = row
        if hidden is None:
            marker = "▾ " if directory.path in self._open else "▸ "
            return marker + printable(directory.path), f" {_files(len(directory.files))}"
        below = hidden.path.removeprefix(directory.path).lstrip(b"/")
        return f"    {printable(below)}", f" L{hidden.layer} → L{hidden.by}"

    def _rebuild(self) -> None:
        self.rows = list(self._visible())
        self._longest = max((sum(map(cell_len, self._text(row))) for row in self.rows), default=0)
        self.recount()

    def _visible(self) -> Iterator[WasteRow]:
        for directory in self._directories or ():
            yield WasteRow(directory, None)
            if directory.path in self._open:
                yield from (WasteRow(directory, file) for file in directory.files)


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"
