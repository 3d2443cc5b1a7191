"""Threads that may be refused: a limit on processes (RLIMIT_NPROC, pids.max) or memory then ends in an error.

`ThreadPoolExecutor` raises RuntimeError after it has queued the work, and so does `Thread.start`. Here both raise
ShortageError, which tells the user what to raise; whoever submits several works that wait for each other must release
them then. This module does not know what the work is.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from ocifs.errors import raise_if_short

P = ParamSpec("P")
T = TypeVar("T")


def start(thread: threading.Thread) -> None:
    """Start a thread. Raises ShortageError where the system gives none."""
    try:
        thread.start()
    except RuntimeError as error:
        raise_if_short(error)
        raise


class Pool(ThreadPoolExecutor):
    """A pool of threads whose `submit` raises ShortageError where the system gives no thread."""

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `work` in a thread."""
        try:
            return super().submit(work, *args, **kwargs)
        except RuntimeError as error:
            raise_if_short(error)
            raise
