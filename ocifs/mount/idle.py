"""Whether a processor is idle, so that speculative work delays no other thread."""

import os
from collections.abc import Callable

_PROCESSORS = os.cpu_count() or 1


def running() -> int:
    """Return the number of runnable threads of the machine, this one included (proc_loadavg(5)). Raises OSError."""
    fd = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(fd, 100).split()[3].partition(b"/")[0])
    finally:
        os.close(fd)


def has_idle_processor(running: Callable[[], int] = running, processors: int = _PROCESSORS) -> bool:
    """Whether fewer threads are runnable than there are processors; without /proc, none is idle."""
    try:
        return running() < processors
    except (OSError, ValueError, IndexError):
        return False
