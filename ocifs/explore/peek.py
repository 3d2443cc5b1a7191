"""The preview beside the tree: the file under the cursor, read in a thread once the cursor rests."""

from functools import partial
from typing import TYPE_CHECKING

from textual.worker import get_current_worker

from ocifs.errors import OcifsError, printable
from ocifs.explore.file_view import FileAt, FileView, read_beginning

if TYPE_CHECKING:
    from textual.timer import Timer


_LONGEST = 1 << 16
"""Bytes of a file that it shows."""
_PAUSE = 0.1
"""Seconds that the cursor rests on a file before it is read."""


class Peek(FileView):
    """The preview."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._file: FileAt | None = None
        self._resting: Timer | None = None
        """Ends when the cursor has rested on a file."""
        self.border_title = "Preview"

    def show_soon(self, file: FileAt | None) -> None:
        """Show a file unless the next one follows at once."""
        if self._resting is not None:
            self._resting.stop()
        self._resting = self.set_timer(_PAUSE, lambda: self._show_file(file))

    def _show_file(self, file: FileAt | None) -> None:
        if file == self._file:
            return
        self._file = file
        kind = file.listed().type if file else ""
        if file is not None and kind == "regular":
            self.run_worker(lambda: self._read(file), thread=True, exclusive=True, exit_on_error=False)
            return
        self.workers.cancel_node(self)
        self.show_message(f"/{printable(file.path)}" if file else "Preview", *([kind] if kind else []))

    def _read(self, file: FileAt) -> None:
        worker = get_current_worker()
        title = f"/{printable(file.path)}"
        try:
            beginning = read_beginning(file, _LONGEST)
        except (OcifsError, OSError) as error:
            show = partial(self.show_message, title, str(error))
        else:
            show = partial(self.show_beginning, beginning)
        if not worker.is_cancelled:
            self.app.call_from_thread(lambda: None if worker.is_cancelled else show())
