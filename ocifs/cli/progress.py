"""Progress bars, on a terminal only, and only for work that takes time."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from ocifs.spec.digest import Digest

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@contextmanager
def indexing(what: str = "indexing") -> Iterator[Callable[[Digest, int, int], None]]:
    """Yield a callback (layer, bytes done, total bytes) that draws a bar for each layer if stderr is a terminal."""
    with _bars() as advance:
        yield lambda layer, done, total: advance(f"{what} {layer.hex[:12]}", done, total) if advance else None


@contextmanager
def working(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Yield a callback (bytes done, total bytes) that draws a bar; None if stderr is not a terminal."""
    with _bars() as advance:
        yield partial(advance, what) if advance else None


exporting = partial(working, "exporting")


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None] | None]:
    """Yield a callback that moves the bar of a name; None if stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with ExitStack() as stack:
        yield _Bars(stack).advance


class _Bars:
    """The bars. The first one imports rich, so a command with cached indexes does not pay for it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def advance(self, what: str, done: int, total: int) -> None:
        """Move a bar."""
        with self._lock:
            if self._progress is None:
                self._progress = self._start()
            if what not in self._tasks:
                self._tasks[what] = self._progress.add_task(what, total=total)
            # Completed bars disappear: an image may have more layers than the screen has lines.
            self._progress.update(self._tasks[what], completed=done, visible=done < total)

    def _start(self) -> "Progress":
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
        )
        return self._stack.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
