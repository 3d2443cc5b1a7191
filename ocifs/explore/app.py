"""The screen of `ocifs explore`: layers on the left, files on the right.

The merged tree is available immediately. Threads build the trees of layer changes, add up directory sizes and search;
the screen updates when they finish. The caller opens and closes the image.
"""

import re
from collections.abc import Callable
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, Static
from textual.worker import Worker, WorkerState, get_current_worker

from ocifs.errors import OcifsError, printable
from ocifs.explore.layers import LayersPane, layer_lines
from ocifs.explore.outline import ALL_CHANGES, Row
from ocifs.explore.screens import Help, Preview
from ocifs.explore.tree import TreePane
from ocifs.image.opening import Image
from ocifs.image.rootfs import Rootfs
from ocifs.report.listing import Listed, shown_time
from ocifs.report.overlay import Found, Overlay, Sizes, Stack, search
from ocifs.report.text import human_size

_PREVIEW = 1 << 20
"""Bytes of a file that the preview shows."""
_MOST_FOUND = 10_000


class Explorer(App[None]):
    """The screen of one image."""

    TITLE = "ocifs"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #title { height: 1; background: $panel; padding: 0 1; }
    #left { width: 36%; min-width: 28; max-width: 64; }
    #layers, #tree { border: round $panel-lighten-2; }
    #layers:focus, #tree:focus { border: round $primary; }
    #layers { height: 1fr; }
    #details { height: 10; border: round $panel-lighten-2; }
    #right { width: 1fr; }
    #filter { display: none; height: 3; border: round $primary; }
    #filter.-shown { display: block; }
    #filter.-invalid { border: round $error; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "switch", "Pane", priority=True),
        Binding("ctrl+f,slash", "filter", "Find"),
        Binding("escape", "unfilter", "All", show=False),
        Binding("question_mark", "help", "Keys"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c,ctrl+q", "quit", "Quit", priority=True, show=False),
    ]

    def __init__(self, image: Image) -> None:
        super().__init__()
        self._image = image
        self._aggregated = False
        self._compared: Overlay | None = None
        """The trees of what each layer changes; None until they are ready."""
        self._layers = LayersPane(layer_lines(image), id="layers")
        self._tree = TreePane(id="tree")
        self._details = Static(id="details")
        self._filter = Input(placeholder="regular expression", id="filter", compact=True)
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
                yield self._filter
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

    def on_tree_pane_preview_request(self, message: TreePane.PreviewRequest) -> None:
        """Preview a file."""
        row = message.row
        rootfs = self._tree.overlay.rootfs(row.entry.shown)
        entry = Listed.of(rootfs, row.path, row.entry.shown[-1][1])
        if entry.type != "regular":
            self.notify(f"{printable(entry.name)} is no regular file", timeout=3, markup=False)
            return
        self._in_thread("preview", lambda _: self._read(rootfs, entry))

    def on_input_changed(self, message: Input.Changed) -> None:
        """Search for the typed pattern after a pause in typing."""

        def search_unless_more() -> None:
            if self._filter.value == message.value:
                self._search()

        self.set_timer(0.2, search_unless_more)

    def on_input_submitted(self) -> None:
        """Move to the search results."""
        self._tree.focus()

    def on_worker_state_changed(self, message: Worker.StateChanged) -> None:
        """Report an error from a thread."""
        if message.state != WorkerState.ERROR:
            return
        error = message.worker.error
        if isinstance(error, OcifsError | OSError):
            self._note(message.worker.group, "")
            self.notify(str(error), severity="error", timeout=10, markup=False)
        elif error is not None:
            raise error

    def action_switch(self) -> None:
        """Move to the other pane."""
        if not isinstance(self.screen, ModalScreen):
            (self._tree if self.focused is not self._tree else self._layers).focus()

    def action_aggregate(self, aggregated: bool) -> None:
        """Compare with the base layer, or with the layer below."""
        self._aggregated = aggregated
        self._view()

    def action_filter(self) -> None:
        """Open the search field."""
        self._filter.add_class("-shown")
        self._filter.focus()

    def action_unfilter(self) -> None:
        """Show all paths again."""
        self._filter.remove_class("-shown")
        self._filter.value = ""
        self._search()
        self._tree.focus()

    def action_help(self) -> None:
        """Show the key bindings."""
        self.push_screen(Help())

    @property
    def _selection(self) -> tuple[int, int]:
        """Number of layers in the two compared trees, before and after."""
        layer = self._layers.cursor
        return 1 if self._aggregated else max(1, layer), layer + 1

    def _begin(self) -> None:
        """Start the background work once the screen is visible."""
        if self._image.resolved.layers:
            self._note("compare", "comparing layers …")
            self._in_thread("compare", self._compare)
        # The sizes of layers compared before can be added up at once, in the trees that stay open.
        self.set_timer(0.5, lambda: None if self._compared else self._begin_sizes())

    def _begin_sizes(self) -> None:
        overlay, before, after = self._roots()
        self._note("size", "adding up …")
        self._in_thread("sizes", lambda stop: self._add_up(overlay, before, after, stop))

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
        except re.error:
            self._filter.add_class("-invalid")
            return
        self._filter.remove_class("-invalid")
        if not text:
            self.workers.cancel_group(self, "search")
            self._note("search", "")
            self._tree.find(None)
            return
        overlay, before, after = self._roots()
        self._note("search", "searching …")
        self._in_thread("search", lambda stop: self._find(overlay, (before, after), pattern, stop))

    def _in_thread(self, group: str, work: "Callable[[Callable[[], bool]], None]") -> None:
        """Run work in a thread, and cancel earlier work of the same kind."""

        def run() -> None:
            worker = get_current_worker()
            work(lambda: worker.is_cancelled)

        self.run_worker(run, group=group, thread=True, exclusive=True, exit_on_error=False)

    def _done(self, stop: Callable[[], bool], take: Callable[[], None]) -> None:
        """Post a result from a thread to the screen, unless it is outdated."""
        if not stop():
            self.call_from_thread(lambda: None if stop() else take())

    def _compare(self, stop: Callable[[], bool]) -> None:
        trees = []
        for number in range(len(self._image.resolved.layers)):
            if stop():
                return
            trees.append(self._image.changes(number))

        def take() -> None:
            self._compared = Overlay(trees)
            self._note("compare", "")
            self._view()

        self._done(stop, take)

    def _add_up(self, overlay: Overlay, before: Stack, after: Stack, stop: Callable[[], bool]) -> None:
        sizes = Sizes(overlay)
        sizes.add_up(before, after, stop)

        def take() -> None:
            self._tree.show_sizes(sizes)
            whole = sizes.of(after)
            self._note("size", "" if whole is None else human_size(whole))

        self._done(stop, take)

    def _find(
        self, overlay: Overlay, roots: tuple[Stack, Stack], pattern: re.Pattern[bytes], stop: Callable[[], bool]
    ) -> None:
        found = search(overlay, *roots, pattern, _MOST_FOUND, stop)
        self._done(stop, lambda: self._take_found(found))

    def _take_found(self, found: Found) -> None:
        self._note("search", f"{found.matches} found" if found.whole else f"the first {found.matches} found")
        self._tree.find(found.paths)

    def _read(self, rootfs: Rootfs, entry: Listed) -> None:
        data = rootfs.read(entry.inode.nid, _PREVIEW, 0)
        size = entry.inode.size
        note = human_size(size) if size <= _PREVIEW else f"the first {human_size(_PREVIEW)} of {human_size(size)}"
        self.call_from_thread(self.push_screen, Preview("/" + printable(entry.path), data, note))

    def _note(self, topic: str, text: str) -> None:
        """Show a message on a topic in the border of the file pane."""
        self._notes[topic] = text
        self._tree.border_subtitle = Content("  ".join(note for note in self._notes.values() if note))

    def _describe(self) -> None:
        """Show what the tree represents, and the details of the item under the cursor."""
        number = self._layers.cursor
        if self._compared is None:
            title = "Files"
        elif self._aggregated:
            title = f"Files as of layer {number}, changes since layer 0"
        else:
            title = f"Files as of layer {number}, its changes"
        hidden = [change for change in ALL_CHANGES if change in self._tree.outline.hidden]
        self._tree.border_title = Content(title + (f", without {', '.join(hidden)}" if hidden else ""))
        row = self._tree.current
        if self.focused is self._layers and self._layers.lines:
            self._details.update(self._layer_details())
        elif row is not None:
            self._details.update(self._file_details(row))
        else:
            self._details.update("")

    def _layer_details(self) -> Content:
        layer = self._layers.lines[self._layers.cursor]
        return Content(
            f"{layer.digest[:19]}\n{human_size(layer.stored)} -> {human_size(layer.size)}\n{layer.created_by}"
        )

    def _file_details(self, row: Row) -> Content:
        rootfs = self._tree.overlay.rootfs(row.entry.shown)
        entry = Listed.of(rootfs, row.path, row.entry.shown[-1][1])
        inode = entry.inode
        target = "" if entry.target is None else f" -> {printable(entry.target)}"
        size = f"{inode.size} bytes\n" if entry.type == "regular" else ""
        return Content(
            f"{entry.mode} {inode.uid}:{inode.gid}\n{size}{shown_time(inode.mtime_ns)}\n"
            f"layer {inode.layer}, {row.entry.change}\n/{printable(row.path)}{target}"
        )
