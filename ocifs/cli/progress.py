"""Progress bars, on a terminal only, and only for work that takes time."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from ocifs.spec.digest import Digest

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_QUIET = 1.0
"""Seconds after the last line of output before the bars come back."""
_LARGE = 1 << 20
"""Bytes of a blob whose download gets a bar."""


@contextmanager
def indexing(what: str = "indexing") -> "Iterator[LayerBars]":
    """Yield a callback (layer, bytes done, total bytes) that draws a bar for each layer if stderr is a terminal."""
    with bars() as drawn:
        yield LayerBars(drawn, what)


@contextmanager
def working(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Yield a callback (bytes done, total bytes) that draws a bar; None if stderr is not a terminal."""
    with bars() as drawn:
        yield partial(drawn.advance, what) if drawn else None


exporting = partial(working, "exporting")


@contextmanager
def bars() -> "Iterator[Bars | None]":
    """Yield bars, which disappear at the end; None if stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    drawn = Bars()
    try:
        yield drawn
    finally:
        drawn.hide()


class Bars:
    """The bars. The first one imports rich, so a command with cached indexes does not pay for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._hidden = True
        self._back = 0.0
        """When hidden bars may come back, by the monotonic clock."""

    def advance(self, what: str, done: int, total: int) -> None:
        """Move a bar."""
        with self._lock:
            if self._progress is None:
                from ocifs.cli.bars import progress_bars

                self._progress = progress_bars()
            if what not in self._tasks:
                self._tasks[what] = self._progress.add_task(what, total=total)
            # Completed bars disappear: an image may have more layers than the screen has lines.
            self._progress.update(self._tasks[what], completed=done, total=total, visible=done < total)
            if self._hidden and time.monotonic() >= self._back:
                self._progress.start()
                self._hidden = False

    def hide(self) -> None:
        """Remove the bars from the terminal, because other output follows; they come back if none does for a second."""
        with self._lock:
            if self._progress is not None and not self._hidden:
                self._progress.stop()
            self._hidden = True
            self._back = time.monotonic() + _QUIET


class LayerBars:
    """A bar for each layer. While a layer arrives from a registry, its bar says so: other work on it waits for that."""

    def __init__(self, drawn: Bars | None, what: str) -> None:
        self._drawn = drawn
        self._what = what
        self._arriving: set[Digest] = set()

    def __call__(self, layer: Digest, done: int, total: int) -> None:
        """Move the bar of a layer."""
        if self._drawn and layer not in self._arriving:
            self._drawn.advance(f"{self._what} {layer.hex[:12]}", done, total)

    def downloading(self, blob: Digest, done: int, total: int) -> None:
        """Move the bar of a download."""
        if self._drawn and total >= _LARGE:
            self._arriving.add(blob) if done < total else self._arriving.discard(blob)
            self._drawn.advance(f"downloading {blob.hex[:12]}", done, total)
