"""Threads that the system may refuse: at a limit on processes (RLIMIT_NPROC, pids.max) or memory.

`Thread.start` raises RuntimeError then, and so does `ThreadPoolExecutor.submit`, after it has queued the work. Here
both raise ShortageError, which names the limit to raise. A caller whose submissions wait for each other must then
release them.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from ocifs.errors import raise_if_short

P = ParamSpec("P")
T = TypeVar("T")


def start(thread: threading.Thread) -> None:
    """Start a thread. Raises ShortageError if the system refuses."""
    try:
        thread.start()
    except RuntimeError as error:
        raise_if_short(error)
        raise


class Pool(ThreadPoolExecutor):
    """A pool of threads whose `submit` raises ShortageError if the system refuses a thread."""

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `work` in a thread."""
        try:
            return super().submit(work, *args, **kwargs)
        except RuntimeError as error:
            raise_if_short(error)
            raise
