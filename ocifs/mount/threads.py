"""Worker threads with deadlines: each submission is answered exactly once, and in time.

A thread that waits for a disk which does not answer cannot be interrupted. So a watchdog answers overdue submissions,
and another thread replaces the stuck one, which exits when its work returns; the late result is dropped. These threads
delay neither `close` nor the exit of the process.

The system may refuse a thread. Only one that runs counts, so the next submission tries again; as long as one thread and
the watchdog run, submissions wait for them until their deadlines. If there is no memory to answer a submission, it
becomes overdue soon, and is answered then.
"""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from ocifs.errors import ShortageError
from ocifs.pool import Thread, start

T = TypeVar("T")

_STOPPED_SECONDS = 1.0
"""Seconds. If the watchdog wakes later than that, the process was stopped (SIGSTOP), so deadlines are extended."""
_AGAIN_SECONDS = 0.1
"""Seconds after which to try again what failed for lack of memory."""
_CLOSE_SECONDS = 1.0
"""Seconds that `close` waits for threads to finish their work."""


class Overdue(Exception):  # noqa: N818 - a word of its own, as StopIteration is
    """The work was not done in time."""


class _Submission:
    """A submission without an answer."""

    def __init__(self, work: Callable[[], Any], answer: Callable[[Any], None], deadline: float) -> None:
        self.work = work
        self.answer = answer
        self.deadline = deadline
        self.has_begun = False
        self.is_replaced = False


class Threads:
    """Up to `count` threads, not counting stuck ones, for work with a time limit of `seconds` from its submission.

    At most `most_stuck` stuck threads are replaced; beyond them, new submissions wait for a thread or become overdue.
    """

    def __init__(self, count: int, seconds: float, most_stuck: int = 64) -> None:
        self._count = count
        self._seconds = seconds
        self._most_stuck = most_stuck
        self._queue: SimpleQueue[_Submission | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._pending: dict[_Submission, None] = {}
        """Those without an answer."""
        self._threads: dict[int, Thread] = {}
        self._numbers = itertools.count()
        self._idle = 0
        self._stuck = 0
        self._closing = threading.Event()
        self._watchdog: Thread | None = None

    def start(self) -> None:
        """Start the watchdog and one thread, which suffice for any work. Raises ShortageError."""
        with self._lock:
            self._start_watchdog()
            self._forget_ended()
            if not self._threads:
                self._start()

    def submit(self, work: Callable[[], T], answer: Callable[[T | Exception], None]) -> None:
        """Call `answer` once, with the result of `work`, its exception, or `Overdue`.

        The call comes from some thread; or from this one, with ShortageError, if no thread can do the work or watch.
        """
        submission = _Submission(work, answer, time.monotonic() + self._seconds)
        with self._lock:
            self._pending[submission] = None
            self._queue.put(submission)
            if (short := self._short_of_threads()) is not None:
                del self._pending[submission]  # a thread that returns skips it in the queue
        if short is not None:
            answer(short)

    def is_busy(self) -> bool:
        """Whether a submission has no answer yet."""
        return bool(self._pending)

    def close(self) -> None:
        """Stop without answering pending submissions, and leave stuck threads alone."""
        self._closing.set()
        with self._lock:
            self._pending.clear()
            threads = list(self._threads.values())
        for _ in threads:
            self._queue.put(None)
        deadline = time.monotonic() + _CLOSE_SECONDS
        for thread in [*threads, *([self._watchdog] if self._watchdog else [])]:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _short_of_threads(self) -> ShortageError | None:
        """Start the threads that one more submission needs; return the error if no running thread can do it."""
        self._forget_ended()
        try:
            self._start_watchdog()
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

    def _start_watchdog(self) -> None:
        if self._watchdog is None or self._watchdog.has_ended:
            self._watchdog = start(self._watch)

    def _start(self) -> None:
        number = next(self._numbers)
        self._threads[number] = start(lambda: self._work(number))  # it waits for the lock, held here

    def _forget_ended(self) -> None:
        """Forget threads that have ended on their own: they had no memory."""
        if ended := [number for number, thread in self._threads.items() if thread.has_ended]:
            for number in ended:
                del self._threads[number]
            self._idle = min(self._idle, len(self._threads))

    def _work(self, number: int) -> None:
        try:
            while (submission := self._next()) is not None and self._serve(submission):
                pass
        finally:
            with self._lock:
                self._threads.pop(number, None)

    def _next(self) -> _Submission | None:
        with self._lock:  # also held by `submit`: no work comes in between, and no busy thread counts as idle
            try:
                return self._queue.get_nowait()
            except Empty:
                self._idle += 1
        return self._queue.get()

    def _serve(self, submission: _Submission) -> bool:
        """Do the work and answer; return whether this thread is still needed."""
        with self._lock:
            if submission not in self._pending:  # already overdue
                return True
            submission.has_begun = True
        try:
            result = submission.work()
        except Exception as error:  # noqa: BLE001 - the submission is answered with it
            result = error
        with self._lock:
            in_time = submission in self._pending
            self._pending.pop(submission, None)
            self._stuck -= submission.is_replaced
        if in_time:
            self._answer(submission, result)
        return not submission.is_replaced

    def _answer(self, submission: _Submission, result: Any) -> None:
        try:
            submission.answer(result)
        except MemoryError:
            with self._lock:
                submission.has_begun = False  # no thread is stuck in it
                submission.deadline = time.monotonic() + _AGAIN_SECONDS
                self._pending[submission] = None

    def _watch(self) -> None:
        due = time.monotonic() + self._seconds
        while True:
            try:
                if self._closing.wait(due - time.monotonic()):
                    return
                due = self._answer_overdue(due)
            except MemoryError:
                time.sleep(_AGAIN_SECONDS)
                due = time.monotonic()

    def _answer_overdue(self, due: float) -> float:
        """Answer the overdue submissions; return when the next ones are due. `due` is when this call was."""
        now = time.monotonic()
        late = Overdue()
        with self._lock:
            if now - due > _STOPPED_SECONDS:
                for submission in self._pending:
                    submission.deadline += now - due
            overdue = [submission for submission in self._pending if submission.deadline <= now]
        for submission in overdue:
            self._give_up(submission, late)
        with self._lock:
            return min([now + self._seconds, *(submission.deadline for submission in self._pending)])

    def _give_up(self, submission: _Submission, late: Overdue) -> None:
        """Answer an overdue submission, unless that was done meanwhile; replace the thread that is stuck in it."""
        is_stuck = False
        with self._lock:
            if submission not in self._pending:
                return
            del self._pending[submission]
            if submission.has_begun and self._stuck < self._most_stuck:
                submission.is_replaced = is_stuck = True
                self._stuck += 1
        try:
            if is_stuck:
                self._start_for_queued()
        finally:
            self._answer(submission, late)

    def _start_for_queued(self) -> None:
        """Start a thread if work is queued. Without one, it becomes overdue, unless a thread returns."""
        with self._lock, contextlib.suppress(ShortageError):
            if not self._queue.empty():
                self._start()
