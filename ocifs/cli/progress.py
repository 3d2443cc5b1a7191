"""A progress bar for each layer that is being indexed: on a terminal, and only once there is something to wait for."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from ocifs.spec.digest import Digest

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@contextmanager
def indexing() -> Iterator[Callable[[Digest, int, int], None]]:
    """Give what is to be told of progress; draw it on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda layer, done, total: None
        return
    with ExitStack() as stack:
        yield _Bars(stack).advance


class _Bars:
    """The bars; rich is imported for the first one, so an image that is known costs nothing."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._tasks: dict[Digest, TaskID] = {}

    def advance(self, layer: Digest, done: int, total: int) -> None:
        """Move the layer's bar."""
        with self._lock:
            if self._progress is None:
                self._progress = self._start()
            if layer not in self._tasks:
                self._tasks[layer] = self._progress.add_task(layer.hex[:12], total=total)
            self._progress.update(self._tasks[layer], completed=done)

    def _start(self) -> "Progress":
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (
            TextColumn("indexing {task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
        )
        return self._stack.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
