"""The screen of `ocifs explore`: layers on the left, files or hidden bytes on the right, a preview on wide screens.

The merged tree is available immediately. Threads build the trees of layer changes, add up directory sizes, search, and
read and copy files; the screen updates when they finish. The caller opens and closes the image, and copies files.
"""

import os
import re
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, Static

from ocifs.errors import printable, printable_path
from ocifs.explore.background import BackgroundApp, Stop
from ocifs.explore.details import file_details, layer_details
from ocifs.explore.file_view import LONGEST_PREVIEW, Beginning, FileAt, read_beginning
from ocifs.explore.layers import LayersPane, layer_lines
from ocifs.explore.outline import ALL_CHANGES
from ocifs.explore.peek import Peek
from ocifs.explore.screens import Destination, Help, Preview
from ocifs.explore.tree import TreePane
from ocifs.explore.waste import WastePane, audit
from ocifs.image.opening import Image
from ocifs.image.rootfs import Rootfs
from ocifs.report.overlay import Found, Overlay, Sizes, Stack, search
from ocifs.report.text import human_size

Copy = Callable[[Rootfs, str, str], Sequence[str]]
"""Copies a path of a tree to a destination on the host; returns warnings. Raises OcifsError."""

_MOST_FOUND = 10_000


class _Filter(Input):
    """The search field."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "To the files"),
        Binding("escape", "app.unfilter", "Show all"),
    ]


class Explorer(BackgroundApp):
    """The screen of one image."""

    TITLE = "ocifs"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #title { height: 1; background: $panel; padding: 0 1; }
    #left { width: 36%; min-width: 28; max-width: 56; }
    .-narrow #left:focus-within { width: 52%; }
    #layers, #tree, #waste { border: round $panel-lighten-2; }
    #layers:focus, #tree:focus, #waste:focus { border: round $primary; }
    #layers { height: 1fr; }
    #details { height: 10; border: round $panel-lighten-2; }
    .-short #details { height: 7; }
    #right { width: 1fr; }
    #peek { width: 1fr; display: none; }
    .-wide #peek { display: block; }
    Footer FooterLabel { margin: 0 1 0 0; }
    #filter { display: none; height: 3; border: round $primary; }
    #filter.-invalid { border: round $error; }
    """
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-normal"), (160, "-wide")]  # noqa: RUF012 # no ClassVar in App
    VERTICAL_BREAKPOINTS = [(0, "-short"), (32, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "switch", "Pane", priority=True),
        Binding("slash,ctrl+f", "filter", "Find"),
        Binding("w", "waste", "Waste"),
        Binding("escape", "unfilter", "All", show=False),
        Binding("question_mark", "help", "Keys"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c,ctrl+q", "quit", "Quit", priority=True, show=False),
    ]

    def __init__(self, image: Image, copy: Copy) -> None:
        super().__init__()
        self._image = image
        self._copy = copy
        self._building = threading.Lock()
        """Held while a tree is built: an image builds one at a time."""
        self._aggregated = False
        self._compared: Overlay | None = None
        """The trees of what each layer changes; None until they are ready."""
        self._layers = LayersPane(layer_lines(image), id="layers")
        self._tree = TreePane(id="tree")
        self._waste = WastePane(image, id="waste")
        self._waste.display = False
        self._details = Static(id="details")
        self._filter = _Filter(placeholder="regular expression", id="filter", compact=True)
        self._peek = Peek(id="peek")
        self._notes: dict[str, str] = {}

    def compose(self) -> ComposeResult:
        """Create the widgets."""
        resolved = self._image.resolved
        size = human_size(sum(layer.descriptor.size for layer in resolved.layers))
        yield Static(
            Content(f"{resolved.name}  {resolved.digest[:19]}  {resolved.config.platform}  {size}"), id="title"
        )
        with Horizontal():
            with Vertical(id="left"):
                yield self._layers
                yield self._details
            with Vertical(id="right"):
                yield self._tree
                yield self._waste
                yield self._filter
            yield self._peek
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Show the whole image, and start comparing its layers."""
        self._layers.border_title = "Layers"
        self._details.border_title = "Details"
        self._filter.border_title = "Find"
        self._layers.recount()
        self._tree.focus()
        self._show_tree()
        self.call_after_refresh(self._begin)

    def on_lines_moved(self, message: LayersPane.Moved) -> None:
        """Show the details of the item under the cursor, and the tree of a newly selected layer."""
        if message.lines is self._layers and self._compared is not None and self._shown != self._selection:
            self._view()
        self._describe()

    def on_descendant_focus(self) -> None:
        """Show the details of the item under the cursor."""
        self._describe()

    def on_resize(self) -> None:
        """Fill the preview, which may have appeared."""
        self.call_after_refresh(self._describe)

    def on_tree_pane_preview_request(self, message: TreePane.PreviewRequest) -> None:
        """Preview a file."""
        self._preview(message.file)

    def on_waste_pane_preview_request(self, message: WastePane.PreviewRequest) -> None:
        """Preview a hidden file."""
        self._preview(message.file)

    def on_input_changed(self, message: Input.Changed) -> None:
        """Search for the typed pattern after a pause in typing."""
        if message.input is not self._filter:
            return

        def search_unless_more() -> None:
            if self._filter.value == message.value:
                self._search()

        self.set_timer(0.2, search_unless_more)

    def on_input_submitted(self, message: Input.Submitted) -> None:
        """Move to the search results."""
        if message.input is self._filter:
            self._tree.focus()

    def action_switch(self) -> None:
        """Move to the next pane."""
        if isinstance(self.screen, ModalScreen):
            return
        panes = [self._layers, self._pane, *([self._peek] if self._peek.display else [])]
        place = next((place for place, pane in enumerate(panes) if pane is self.focused), 0)
        panes[(place + 1) % len(panes)].focus()

    def action_waste(self) -> None:
        """Show hidden bytes in place of the files, or the files again."""
        self._waste.display = not self._waste.display
        self._tree.display = not self._waste.display
        self._filter.display = self._tree.display and bool(self._filter.value)
        self._pane.focus()
        self._begin_waste()
        self._describe()

    def action_copy_out(self) -> None:
        """Ask for a destination, and copy the file under the cursor there."""
        file = self._pane.file
        if file is None:
            return
        kind = file.listed().type
        if self._notes.get("copy"):
            self._complain("another copy is in progress: wait for its end")
        elif kind not in {"regular", "directory"}:
            self._complain(f"{printable(file.path)} is not a regular file or directory")
        elif kind == "directory" and self._pane is self._tree and self._tree.is_removed:
            self._complain(f"layer {self._layers.cursor} removes {printable(file.path)}: choose an earlier layer")
        else:
            self.push_screen(Destination(file.path), partial(self._copy_to, file, kind == "directory"))

    def action_aggregate(self, aggregated: bool) -> None:
        """Compare with the base layer, or with the layer below."""
        self._aggregated = aggregated
        self._view()

    def action_filter(self) -> None:
        """Open the search field."""
        if self._waste.display:
            self.action_waste()
        self._filter.display = True
        self._filter.focus()

    def action_unfilter(self) -> None:
        """Show all paths again."""
        self._filter.display = False
        self._filter.value = ""
        self._search()
        self._tree.focus()

    def action_help(self) -> None:
        """Show the key bindings."""
        self.push_screen(Help())

    @property
    def _pane(self) -> TreePane | WastePane:
        """The pane on the right."""
        return self._waste if self._waste.display else self._tree

    @property
    def _selection(self) -> tuple[int, int]:
        """Number of layers in the two compared trees, before and after."""
        layer = self._layers.cursor
        return 1 if self._aggregated else max(1, layer), layer + 1

    def _begin(self) -> None:
        """Start the background work once the screen is visible."""
        if self._image.resolved.layers:
            self.note("compare", "comparing layers …")
            self.in_thread("compare", self._compare)
        # The sizes of layers compared before can be added up at once, in the trees that stay open.
        self.set_timer(0.5, lambda: None if self._compared else self._begin_sizes())

    def _begin_sizes(self) -> None:
        overlay, before, after = self._roots()
        self.note("size", "adding up …")
        self.in_thread("sizes", lambda stop: self._add_up(overlay, before, after, stop))

    def _begin_waste(self) -> None:
        """Find what is hidden, once the waste pane is open and the layers are compared."""
        if not self._waste.display or self._waste.is_known or (self._image.resolved.layers and not self._compared):
            return

        def find(stop: Stop) -> None:
            found = audit(self._image)
            self.done(stop, lambda: self._waste.show(found))

        self.in_thread("waste", find)

    def _view(self) -> None:
        """Show the tree as of the selected layer, and everything that depends on it."""
        self._show_tree()
        self._begin_sizes()
        if self._filter.value:
            self._search()
        self._describe()

    def _show_tree(self) -> None:
        self._shown = self._selection
        self._tree.show(*self._roots())

    def _roots(self) -> tuple[Overlay, Stack, Stack]:
        if self._compared is None:
            overlay = Overlay([self._image.rootfs])
            return overlay, overlay.root(1), overlay.root(1)
        before, after = (self._compared.root(count) for count in self._selection)
        return self._compared, before, after

    def _search(self) -> None:
        text = self._filter.value
        try:
            pattern = re.compile(text.encode())
        except re.error as error:
            self._filter.add_class("-invalid")
            self._filter.border_subtitle = Content(f"invalid: {error.msg}")
            return
        self._filter.remove_class("-invalid")
        self._filter.border_subtitle = ""
        if not text:
            self.workers.cancel_group(self, "search")
            self.note("search", "")
            self._tree.find(None, None)
            return
        overlay, before, after = self._roots()
        self.note("search", "searching …")
        self.in_thread("search", lambda stop: self._find(overlay, (before, after), pattern, stop))

    def _compare(self, stop: Stop) -> None:
        trees = []
        for number in range(len(self._image.resolved.layers)):
            if stop():
                return
            trees.append(self._image.changes(number))

        def take() -> None:
            self._compared = Overlay(trees)
            self.note("compare", "")
            self._view()
            self._begin_waste()

        self.done(stop, take)

    def _add_up(self, overlay: Overlay, before: Stack, after: Stack, stop: Stop) -> None:
        sizes = Sizes(overlay)
        sizes.add_up(before, after, stop)

        def take() -> None:
            self._tree.show_sizes(sizes)
            whole = sizes.of(after)
            self.note("size", "" if whole is None else human_size(whole))

        self.done(stop, take)

    def _find(self, overlay: Overlay, roots: tuple[Stack, Stack], pattern: re.Pattern[bytes], stop: Stop) -> None:
        found = search(overlay, *roots, pattern, _MOST_FOUND, stop)
        self.done(stop, lambda: self._take_found(found, pattern))

    def _take_found(self, found: Found, pattern: re.Pattern[bytes]) -> None:
        self.note("search", f"{found.matches} found" if found.whole else f"the first {found.matches} found")
        self._tree.find(found.paths, pattern)

    def _preview(self, file: FileAt) -> None:
        entry = file.listed()
        if entry.type != "regular":
            self._complain(f"{printable(entry.name)} is not a regular file")
            return

        def read(stop: Stop) -> None:
            beginning = read_beginning(file, LONGEST_PREVIEW)
            self.done(stop, lambda: self._open_preview(beginning))

        self.in_thread("preview", read)

    def _open_preview(self, beginning: Beginning) -> None:
        self.push_screen(Preview(beginning))

    def _copy_to(self, file: FileAt, whole: bool, destination: str | None) -> None:
        """Copy a file, or a `whole` directory as of the selected layer, to what the user named, if anything."""
        if destination is None:
            return
        layer = self._layers.cursor

        def copy(stop: Stop) -> None:
            rootfs = file.rootfs
            if whole and self._compared is not None:
                with self._building:
                    rootfs = self._image.as_of(layer)
            warnings = self._copy(rootfs, "/" + os.fsdecode(file.path), destination)
            told = f"copied /{printable(file.path)} to {printable_path(destination)}"
            self.done(stop, lambda: self._tell_copied(told, warnings))

        self.note("copy", "copying …")
        self.in_thread("copy", copy)

    def _tell_copied(self, told: str, warnings: Sequence[str]) -> None:
        self.note("copy", "")
        self.notify(told, timeout=5, markup=False)
        for warning in warnings:
            self.notify(warning, severity="warning", timeout=10, markup=False)

    def _complain(self, message: str) -> None:
        self.notify(message, severity="warning", timeout=5, markup=False)

    def note(self, topic: str, text: str) -> None:
        """Show a message on a topic in the border of the file pane."""
        self._notes[topic] = text
        self._tree.border_subtitle = Content("  ".join(note for note in self._notes.values() if note))

    def _describe(self) -> None:
        """Show what the tree represents, and the details of the item under the cursor."""
        number = self._layers.cursor
        if self._compared is None:
            title = "Files"
        elif self._aggregated:
            title = f"Files as of layer {number}, all changes"
        else:
            title = f"Files as of layer {number}, its changes"
        hidden = [change for change in ALL_CHANGES if change in self._tree.outline.hidden]
        title += ", by size" * (self._tree.outline.size_of is not None)
        self._tree.border_title = Content(title + (f", without {', '.join(hidden)}" if hidden else ""))
        self._details.update(self._about())
        if self._peek.display:
            self._peek.show_soon(self._pane.file)

    def _about(self) -> Content:
        """Return the details of the item under the cursor."""
        if self.focused is self._layers and self._layers.lines:
            return layer_details(self._layers.lines[self._layers.cursor])
        if self._waste.display:
            return Content(self._waste.describe())
        row, file = self._tree.current, self._tree.file
        return file_details(file, row) if row and file else Content("")
