"""Threads that work for those who wait: each of these is answered once, and in time.

A thread that waits for a disk which does not answer cannot be told to stop. So who is overdue is answered from
elsewhere, and another thread takes the place of the stuck one, which ends when it comes back; what it brings then is
for nobody. Threads hold up neither the end of this object nor that of the process. What the work is, is not known here.

The system may refuse a thread. Only one that has started counts, so the next submission tries again; as long as one
thread and the watcher run, work waits for them, within its deadline.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from ocifs.errors import ShortageError
from ocifs.pool import start

T = TypeVar("T")

_STUCK_MAX = 64
"""Threads that are replaced at a time; when more are stuck, those who come wait for one of them, or are overdue."""
_LATE = 1.0
"""Seconds: whoever looks for the overdue and wakes later than that was stopped (SIGSTOP), and so were the others."""
_PARTING = 1.0
"""Seconds that the threads are given at the end for what they are doing."""


class Overdue(Exception):  # noqa: N818 - a word of its own, as StopIteration is
    """There was no answer in time."""


class _Wait:
    """Somebody who waits."""

    def __init__(self, work: Callable[[], Any], answer: Callable[[Any], None], deadline: float) -> None:
        self.work = work
        self.answer = answer
        self.deadline = deadline
        self.has_begun = False
        self.is_replaced = False


class Threads:
    """Up to `count` threads, besides stuck ones, for work that has to be done within `seconds` of being submitted."""

    def __init__(self, count: int, seconds: float) -> None:
        self._count = count
        self._seconds = seconds
        self._queue: SimpleQueue[_Wait | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting: dict[_Wait, None] = {}
        """In the order of their deadlines."""
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._stuck = 0
        self._closing = threading.Event()
        self._watcher: threading.Thread | None = None

    def start(self) -> None:
        """Start the watcher and one thread, which any work will do with. Raises ShortageError."""
        with self._lock:
            self._start_watcher()
            if not self._threads:
                self._start()

    def submit(self, work: Callable[[], T], answer: Callable[[T | Exception], None]) -> None:
        """Have `answer` called with what `work` returns or raises, or with `Overdue`: once.

        It is called from some thread; or from this one, with ShortageError, if none can do the work or watch.
        """
        wait = _Wait(work, answer, time.monotonic() + self._seconds)
        with self._lock:
            self._waiting[wait] = None
            self._queue.put(wait)
            if (short := self._short_of_threads()) is not None:
                del self._waiting[wait]  # a thread that comes back passes over it in the queue
        if short is not None:
            answer(short)

    def close(self) -> None:
        """Answer nobody any more. What is stuck is left alone."""
        self._closing.set()
        with self._lock:
            self._waiting.clear()
            threads = list(self._threads)
        for _ in threads:
            self._queue.put(None)
        deadline = time.monotonic() + _PARTING
        for thread in [*threads, *([self._watcher] if self._watcher else [])]:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _short_of_threads(self) -> ShortageError | None:
        """Start what is needed for one work more; return why that cannot be done by anything that runs."""
        try:
            self._start_watcher()
        except ShortageError as error:
            return error
        try:
            if self._idle:
                self._idle -= 1
            elif len(self._threads) - self._stuck < self._count:
                self._start()
        except ShortageError as error:
            return error if len(self._threads) == self._stuck else None
        return None

    def _start_watcher(self) -> None:
        if self._watcher is None:
            watcher = threading.Thread(target=self._watch, daemon=True)
            start(watcher)
            self._watcher = watcher

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, daemon=True)
        start(thread)  # it takes the lock, which is held here, before it looks whether it is counted
        self._threads.add(thread)

    def _work(self) -> None:
        while (wait := self._next()) is not None and self._serve(wait):
            pass
        with self._lock:
            self._threads.discard(threading.current_thread())

    def _next(self) -> _Wait | None:
        with self._lock:  # which `submit` holds as well: so no work comes in between, and a busy thread is never idle
            try:
                return self._queue.get_nowait()
            except Empty:
                self._idle += 1
        return self._queue.get()

    def _serve(self, wait: _Wait) -> bool:
        """Work, and answer; return whether this thread is still needed."""
        with self._lock:
            if wait not in self._waiting:  # overdue already
                return True
            wait.has_begun = True
        try:
            result = wait.work()
        except Exception as error:  # noqa: BLE001 - it is for whoever waits
            result = error
        with self._lock:
            in_time = wait in self._waiting
            self._waiting.pop(wait, None)
            self._stuck -= wait.is_replaced
        if in_time:
            wait.answer(result)
        return not wait.is_replaced

    def _watch(self) -> None:
        due = time.monotonic() + self._seconds
        while not self._closing.wait(due - time.monotonic()):
            now = time.monotonic()
            with self._lock:
                if now - due > _LATE:
                    for wait in self._waiting:
                        wait.deadline += now - due
                overdue = [wait for wait in self._waiting if wait.deadline <= now]
                for wait in overdue:
                    self._give_up(wait)
                due = min([now + self._seconds, *(wait.deadline for wait in self._waiting)])
            for wait in overdue:
                wait.answer(Overdue())

    def _give_up(self, wait: _Wait) -> None:
        del self._waiting[wait]
        if wait.has_begun and self._stuck < _STUCK_MAX:
            wait.is_replaced = True
            self._stuck += 1
            if not self._queue.empty():
                with contextlib.suppress(ShortageError):  # then what waits is overdue, unless a thread comes back
                    self._start()
