"""Threads that the system may refuse: at a limit on processes (RLIMIT_NPROC, pids.max) or on memory.

`start` and `Pool.submit` raise ShortageError then, which names the limit to raise. A caller whose submissions wait for
each other must then release them.

The threads are not `threading.Thread`s, whose `start` waits for ever if the new thread runs out of memory before it
reports that it runs (CPython issue 140746). `ThreadPoolExecutor` waits in it too. The interpreter does not wait for
these threads at exit.
"""

import _thread
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from math import ceil
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any, ParamSpec, TypeVar

from ocifs.errors import ShortageError, raise_if_short

P = ParamSpec("P")
T = TypeVar("T")

_PATIENCE = 30.0
"""Seconds that a new thread may take to begin."""
_LOOK = 0.1
"""Seconds. Waiting in short pieces does not count the time for which the process is stopped (SIGSTOP)."""


class Thread:
    """A thread that has been started."""

    def __init__(self, ended: Lock) -> None:
        self._ended = ended
        """Held until the thread ends."""

    @property
    def has_ended(self) -> bool:
        """Whether the thread has ended."""
        return not self._ended.locked()

    def join(self, timeout: float = -1) -> bool:
        """Wait up to `timeout` seconds, by default without end; return whether the thread has ended."""
        if has_ended := self._ended.acquire(timeout=timeout):
            self._ended.release()
        return has_ended


def start(work: Callable[[], object], patience: float = _PATIENCE) -> Thread:
    """Run `work` in a new thread. Raises ShortageError if the system refuses it, or it does not begin in time.

    After the error, `work` never runs, even if the thread begins late.
    """
    begun, ended, decided = Lock(), Lock(), Lock()
    begun.acquire()
    ended.acquire()

    def run() -> None:
        try:
            if decided.acquire(blocking=False):  # else the caller has given up
                begun.release()
                work()
        finally:
            ended.release()

    try:
        _thread.start_new_thread(run, ())
    except RuntimeError as error:
        raise_if_short(error)
        raise
    in_time = any(begun.acquire(timeout=_LOOK) for _ in range(ceil(patience / _LOOK)))
    if not in_time and decided.acquire(blocking=False):
        raise ShortageError("a new thread did not begin: raise the limit on memory (ulimit -v, MemoryMax)")
    return Thread(ended)


class Pool(Executor):
    """Up to `count` threads, each started when a submission finds no idle one. A single thread submits and shuts down.

    As a context manager, it shuts down at the end.
    """

    def __init__(self, count: int, *, waits: bool = False) -> None:
        """With `waits`, a submission that needs another thread and gets none waits for one that runs."""
        self._count = count
        self._waits = waits
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._idle: SimpleQueue[None] = SimpleQueue()
        """An item for each idle thread. A signal may interrupt a Semaphore while it holds its lock."""
        self._is_open = True

    def start(self) -> None:
        """Start a thread if none runs, before it is needed. Raises ShortageError."""
        if not self._living():
            self._start()
            self._idle.put(None)

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `work` in a thread; the future raises its exception. Raises ShortageError, with nothing submitted."""
        if not self._is_open:
            raise RuntimeError("cannot submit work: the pool is shut down")
        try:
            self._idle.get_nowait()
        except Empty:
            if self._living() < self._count:
                try:
                    self._start()
                except ShortageError:
                    if not (self._waits and self._threads):
                        raise
        future: Future[T] = Future()
        self._queue.put((future, partial(work, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end once all submitted work is done, or all that has begun if `cancel_futures`."""
        self._is_open = False
        if cancel_futures:
            with suppress(Empty):
                while (submission := self._queue.get_nowait()) is not None:
                    submission[0].cancel()
        self._queue.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _living(self) -> int:
        """Return the number of threads, after forgetting those that had no memory even to begin."""
        if any(thread.has_ended for thread in self._threads):
            self._threads = [thread for thread in self._threads if not thread.has_ended]
        return len(self._threads)

    def _start(self) -> None:
        self._threads.append(start(self._work))

    def _work(self) -> None:
        while (submission := self._queue.get()) is not None:
            try:
                _answer(*submission)
            except BaseException as error:  # noqa: BLE001 - no memory before or after the work, or a callback failed
                _fail(submission[0], error)
            del submission  # an idle thread keeps neither the work nor its result
            try:  # noqa: SIM105 - `suppress` takes memory
                self._idle.put(None)
            except MemoryError:  # then a submission starts one thread more, or waits
                pass
        self._queue.put(None)  # for the next thread; `_threads` lacks one if a signal has interrupted `submit`


def _fail(future: Future[T], error: BaseException) -> None:
    """Make the future raise an error, as soon as there is memory for that."""
    while not future.done():
        with suppress(MemoryError):
            future.set_exception(error)


def _answer(future: Future[T], work: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - the future raises it
        future.set_exception(error)
    else:
        future.set_result(result)
