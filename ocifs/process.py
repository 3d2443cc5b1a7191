"""What the kernel says about a process in proc(5).

A program chooses its name, which may contain brackets, and any line ending but a newline. So lines end at newlines only
here, and the name ends at the last bracket.
"""

from pathlib import Path
from typing import Literal, NamedTuple

_PROC = Path("/proc")


class ProcessStat(NamedTuple):
    """Fields of `stat` (proc_pid_stat(5))."""

    name: str
    """Of the program, up to 15 bytes (`comm`)."""
    state: str
    """A letter; `Z` or `X`: it has ended."""
    parent: int
    """PID of its parent; 0 if that is in another PID namespace, or there is none."""
    flags: int
    ticks: int
    """Processor time, user and system, in clock ticks."""
    began: int
    """Ticks after the start of the machine."""

    @property
    def is_stopped(self) -> bool:
        """Whether it is stopped (SIGSTOP, Ctrl-Z) or traced."""
        return self.state in {"T", "t"}


def stat_of(pid: int, proc: Path = _PROC) -> ProcessStat:
    """Return fields of `stat`. Raises OSError if there is no such process."""
    before, _, after = _text(proc / f"{pid}/stat").rpartition(")")
    fields = after.split()
    ticks = int(fields[11]) + int(fields[12])
    return ProcessStat(before.partition("(")[2], fields[0], int(fields[1]), int(fields[6]), ticks, int(fields[19]))


def status_of(pid: int | Literal["self"], proc: Path = _PROC) -> dict[str, str]:
    """Return the fields of `status` by name (proc_pid_status(5)). Raises OSError if there is no such process."""
    lines = (line.partition(":") for line in _text(proc / f"{pid}/status").split("\n"))
    return {name: value.strip() for name, _, value in lines}


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")
