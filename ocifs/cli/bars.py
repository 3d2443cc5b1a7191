"""Bars on stderr, drawn with rich. Loaded when the first bar is drawn, so that other commands start without rich."""

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from ocifs.report.text import human_size


class _Sizes(ProgressColumn):
    """Bytes done, bytes in total, and bytes per second."""

    def render(self, task: Task) -> Text:
        total = human_size(int(task.total or 0))
        speed = task.finished_speed or task.speed
        rate = f"{human_size(int(speed))}/s" if speed else ""
        return Text(f"{human_size(int(task.completed)):>8} of {total:>8} {rate:>10}")


def progress_bars() -> Progress:
    """Return bars as wide as the terminal, which disappear at the end."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        _Sizes(),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
        transient=True,
        expand=True,
    )
