"""A file under a cursor, and the widget that shows the beginning of its content as text or hex."""

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from textual.binding import Binding, BindingType
from textual.content import Content

from ocifs.errors import printable
from ocifs.explore.lines import Lines, StyledText
from ocifs.image.rootfs import Rootfs
from ocifs.report.listing import Listed
from ocifs.report.preview import hex_lines, is_binary, text_lines
from ocifs.report.text import human_size

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST_PREVIEW = 1 << 20
"""Bytes of a file that a preview shows."""


class FileAt(NamedTuple):
    """A file in one of the trees of an image."""

    rootfs: Rootfs
    path: bytes
    """From the root, without a leading slash."""
    nid: int

    def listed(self) -> Listed:
        """Return its attributes."""
        return Listed.of(self.rootfs, self.path, self.nid)


class Beginning(NamedTuple):
    """The beginning of a file. All text is printable."""

    title: str
    data: bytes
    note: str


def read_beginning(file: FileAt, most: int) -> Beginning:
    """Read up to `most` bytes of a regular file. Raises OcifsError or OSError."""
    data = file.rootfs.read(file.nid, most, 0)
    size = file.rootfs.tree.inode(file.nid).size
    note = human_size(size) if size <= most else f"the first {human_size(most)} of {human_size(size)}"
    return Beginning("/" + printable(file.path), data, note)


class FileView(Lines):
    """The beginning of a file, or a message."""

    DEFAULT_CSS = "FileView { border: round $panel-lighten-2; } FileView:focus { border: round $primary; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("x", "switch", "Text or hex"),
        Binding("right,l", "shift(8)", "Right", show=False),
        Binding("left,h", "shift(-8)", "Left", show=False),
    ]

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.lines: Sequence[str] = ()
        self.left = 0
        """Columns scrolled out of sight."""
        self._data: bytes | None = None
        self._hex = False
        self._titles = ("", "")

    def count(self) -> int:
        """Return the number of lines."""
        return len(self.lines)

    def parts(self, index: int, width: int) -> list[StyledText]:
        """Return a line."""
        return [(self.lines[index][self.left : self.left + width], "")]

    def show_beginning(self, beginning: Beginning) -> None:
        """Show bytes, as text or in hex, whichever suits them."""
        self._data = beginning.data
        self._hex = is_binary(beginning.data)
        self._show(beginning.title, beginning.note)

    def show_message(self, title: str, *lines: str) -> None:
        """Show printable lines instead of a file."""
        self._data = None
        self.lines = lines
        self._show(title, "")

    def action_switch(self) -> None:
        """Toggle between text and hex."""
        self._hex = not self._hex
        self._show(*self._titles)

    def action_shift(self, columns: int) -> None:
        """Scroll long lines."""
        self.left = max(0, self.left + columns)
        self.refresh()

    def _show(self, title: str, note: str) -> None:
        if self._data is not None:
            self.lines = hex_lines(self._data) if self._hex else text_lines(self._data)
        self.left = 0
        self._titles = (title, note)
        self.border_title, self.border_subtitle = map(Content, self._titles)  # as text, not as markup
        self.recount(0)
