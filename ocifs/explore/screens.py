"""Modal screens: the preview of a file, the destination of a copy, and the key bindings."""

import os.path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, Static

from ocifs.errors import printable
from ocifs.explore.file_view import Beginning, FileView

_KEYS = """\
[b]Everywhere[/b]
 Tab              the next pane
 /  Ctrl+F        only paths that match a regular expression; Esc: all
 w                hidden bytes by directory, or the files again
 ?  q  Ctrl+C     these keys, quit
 ↑ ↓ PgUp PgDn Home End, or k j g G
[b]Layers[/b]
 Ctrl+L  Ctrl+A   changes of the layer, or of all layers since the base
[b]Files[/b]
 Enter            open a directory, view a file
 Space → ←        open or close a directory, into it, out of it
 c  Ctrl+Space    close all directories
 s                sort by size or by name
 e  Ctrl+E        copy a file or directory out of the image
 a r m u          show or hide added, removed, changed, unchanged files;
                  Ctrl too, but most terminals take Ctrl+M for Enter
 b  Ctrl+B        mode, owner and layer
[b]A file[/b]
 x  → ←  Esc      text or hex, scroll, back

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


class Preview(ModalScreen[None]):
    """The preview of a file."""

    DEFAULT_CSS = """
    Preview { background: $background; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "dismiss", "Back")]

    def __init__(self, beginning: Beginning) -> None:
        super().__init__()
        self._beginning = beginning

    def compose(self) -> ComposeResult:
        """Create the widgets."""
        with Vertical():
            yield FileView()
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Show the file."""
        self.query_one(FileView).show_beginning(self._beginning)


class Destination(ModalScreen[str | None]):
    """Ask for the path of a copy. A name from the image is used only after the user has seen and confirmed it."""

    DEFAULT_CSS = """
    Destination { align: center middle; }
    Destination Vertical { width: 80%; max-width: 100; height: auto; border: round $primary; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "Cancel")]

    def __init__(self, path: bytes) -> None:
        """Ask where to copy the file at `path`."""
        super().__init__()
        self._title = f"Copy /{printable(path)} to"
        name = os.fsdecode(path.rpartition(b"/")[2])
        self._name_there = name if name.isprintable() else ""
        """The name in the image, if it can be proposed."""
        self._confirmed = ""

    def compose(self) -> ComposeResult:
        """Create the widgets."""
        with Vertical() as box:
            box.border_title = Content(self._title)
            yield Input(f"./{self._name_there}", placeholder="path on this machine", compact=True)
            yield Static("Enter copies, Esc cancels", id="note")

    def on_input_submitted(self, message: Input.Submitted) -> None:
        """Return the destination, once it names the copy and not only its directory, and may replace what it does."""
        destination = os.path.expanduser(message.value)
        if not destination or destination == self._confirmed:
            self.dismiss(destination or None)
        elif os.path.isdir(destination):
            self._ask_again(os.path.join(destination, self._name_there))
        elif os.path.lexists(destination):
            self._ask_again(destination)
        else:
            self.dismiss(destination)

    def _ask_again(self, destination: str) -> None:
        """Show the path as it would be used, and what it is."""
        note = "Enter copies into the directory"
        if os.path.isdir(destination):
            note = "a directory: name the copy in it"
        elif os.path.lexists(destination):
            self._confirmed = destination
            note = "exists: Enter again replaces it"
        self.query_one(Input).value = destination
        self.query_one("#note", Static).update(f"{note}, Esc cancels")
