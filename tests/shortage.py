"""A process that is given no more threads, as by RLIMIT_NPROC or pids.max, but for real and for this process only."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_TOO_LARGE = 1 << 46


@contextmanager
def no_threads() -> Iterator[None]:
    """Have the system refuse each thread: its stack would be larger than the address space."""
    before = threading.stack_size(_TOO_LARGE)
    try:
        yield
    finally:
        threading.stack_size(before)
