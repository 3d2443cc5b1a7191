"""Modal screens: the preview of a file, and the key bindings."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Footer, Static

from ocifs.explore.lines import Lines, Part
from ocifs.report.preview import hex_lines, is_binary, text_lines

_KEYS = """\
[b]Everywhere[/b]
 Tab              the other pane
 Ctrl+F  /        show only paths that fit a regular expression; Esc: all
 ?  q  Ctrl+C     these keys, quit
 ↑ ↓ PgUp PgDn Home End, or k j g G

[b]Layers[/b]
 Ctrl+L           what the layer changes in those below
 Ctrl+A           what all layers up to it change in the base

[b]Files[/b]
 Enter            open a directory, look into a file
 Space → ←        open or close a directory, into it, out of it
 Ctrl+Space  c    close all directories
 Ctrl+A  a        show or leave out what is added,
 Ctrl+R  r          removed,
 Ctrl+M  m          changed (most terminals take Ctrl+M for Enter),
 Ctrl+U  u          unchanged
 Ctrl+B  b        mode, owner and layer

[b]A file[/b]: x text or hex, Esc back
Marks: [$text-success]+ added[/], [$text-warning]~ changed, or something below[/], [$text-error]- removed[/]\
"""


class Help(ModalScreen[None]):
    """The key bindings."""

    DEFAULT_CSS = """
    Help { align: center middle; }
    Help Static { width: 78; height: auto; max-height: 100%; padding: 0 1; border: round $primary; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,question_mark,q,enter", "dismiss", "Back")]

    def compose(self) -> ComposeResult:
        """Create the widgets."""
        box = Static(_KEYS)
        box.border_title = "Keys"
        yield box


class _Text(Lines):
    """Lines of text."""

    DEFAULT_CSS = "_Text { border: round $primary; }"

    def __init__(self) -> None:
        super().__init__()
        self.lines = text_lines(b"")
        self.left = 0
        """Columns scrolled out of sight."""

    def count(self) -> int:
        return len(self.lines)

    def parts(self, index: int, width: int) -> list[Part]:
        return [(self.lines[index][self.left : self.left + width], "")]


class Preview(ModalScreen[None]):
    """The preview of a file."""

    DEFAULT_CSS = """
    Preview { background: $background; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss", "Back"),
        Binding("x", "switch", "Text or hex"),
        Binding("right,l", "shift(8)", "Right", show=False),
        Binding("left,h", "shift(-8)", "Left", show=False),
    ]

    def __init__(self, title: str, data: bytes, note: str) -> None:
        """Show bytes; both strings are printable."""
        super().__init__()
        self._data = data
        self._title = title
        self._note = note
        self._hex = is_binary(data)

    def compose(self) -> ComposeResult:
        """Create the widgets."""
        with Vertical():
            yield _Text()
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Show the bytes as text or hex, whichever suits them."""
        self._show()

    def action_switch(self) -> None:
        """Toggle between text and hex."""
        self._hex = not self._hex
        self._show()

    def action_shift(self, columns: int) -> None:
        """Scroll long lines."""
        text = self.query_one(_Text)
        text.left = max(0, text.left + columns)
        text.refresh()

    def _show(self) -> None:
        text = self.query_one(_Text)
        text.lines = hex_lines(self._data) if self._hex else text_lines(self._data)
        text.left = 0
        text.border_title = self._title
        text.border_subtitle = self._note
        text.recount(0)
