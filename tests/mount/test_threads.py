import threading
import time
from collections.abc import Callable, Iterator
from queue import Queue

import pytest

from ocifs.errors import ShortageError
from ocifs.mount.threads import Overdue, Threads
from tests.shortage import no_threads
from tests.waiting import thread_count, wait_for

_PATIENCE = 10.0


class Waiting:
    """A waiting caller, and the answers that it got."""

    def __init__(self) -> None:
        self.answers: Queue[object] = Queue()

    def __call__(self, answer: object) -> None:
        self.answers.put(answer)

    def answer(self) -> object:
        return self.answers.get(timeout=_PATIENCE)


def submitted(threads: Threads, work: Callable[[], object]) -> Waiting:
    waiting = Waiting()
    threads.submit(work, waiting)
    return waiting


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads(2, 0.2)
    yield threads
    threads.close()


def test_who_waits_gets_what_the_work_returns_or_raises(threads: Threads) -> None:
    assert submitted(threads, lambda: 7).answer() == 7
    assert isinstance(submitted(threads, lambda: divmod(1, 0)).answer(), ZeroDivisionError)


def test_no_more_threads_work_than_may(threads: Threads) -> None:
    together = threading.Barrier(3)

    def meet() -> bool:
        try:
            together.wait(0.1)
        except threading.BrokenBarrierError:
            return False
        return True

    assert [each.answer() for each in [submitted(threads, meet) for _ in range(3)]] == [False] * 3


def test_an_overdue_caller_is_answered_once_and_a_late_result_is_dropped(threads: Threads) -> None:
    back = threading.Event()
    waiting = submitted(threads, back.wait)
    assert isinstance(waiting.answer(), Overdue)
    back.set()
    assert submitted(threads, lambda: "next").answer() == "next"
    time.sleep(0.1)
    assert waiting.answers.empty()


def test_the_wait_for_a_thread_counts() -> None:
    threads = Threads(2, 0.2, most_stuck=0)
    back = threading.Event()
    done = []
    stuck = [submitted(threads, back.wait) for _ in range(2)]
    queued = submitted(threads, lambda: done.append("in vain"))
    assert all(isinstance(each.answer(), Overdue) for each in [*stuck, queued])
    back.set()
    assert submitted(threads, lambda: "next").answer() == "next"
    assert done == []
    threads.close()


def test_stuck_threads_are_replaced_and_go_when_they_come_back(threads: Threads) -> None:
    back = threading.Event()
    before = thread_count()
    for _ in range(3):
        for each in [submitted(threads, back.wait) for _ in range(2)]:
            assert isinstance(each.answer(), Overdue)
        assert submitted(threads, lambda: "still here").answer() == "still here"
    assert thread_count() - before >= 6
    back.set()
    wait_for(lambda: thread_count() - before <= 3)  # two, and the watchdog
    assert submitted(threads, lambda: "as before").answer() == "as before"


def test_the_number_of_stuck_threads_is_bounded() -> None:
    back = threading.Event()
    threads = Threads(1, 0.05, most_stuck=3)
    before = thread_count()
    for _ in range(10):
        assert isinstance(submitted(threads, back.wait).answer(), Overdue)
    assert thread_count() - before <= 5
    back.set()
    assert submitted(threads, lambda: "again").answer() == "again"
    threads.close()


def test_the_end_waits_for_what_is_being_done_and_not_for_what_is_stuck() -> None:
    threads = Threads(2, 60)
    back = threading.Event()
    stuck, busy = submitted(threads, back.wait), submitted(threads, lambda: time.sleep(0.1))
    time.sleep(0.05)
    began = time.monotonic()
    threads.close()
    assert time.monotonic() - began < _PATIENCE
    back.set()
    assert stuck.answers.empty()
    assert busy.answers.empty()


def test_many_threads_may_submit() -> None:
    threads = Threads(2, 60)

    def many(base: int) -> list[Waiting]:
        return [submitted(threads, lambda number=number: number) for number in range(base, base + 100)]  # type: ignore[misc]

    results: Queue[list[Waiting]] = Queue()
    submitting = [threading.Thread(target=lambda base=base: results.put(many(base))) for base in range(0, 800, 100)]
    for each in submitting:
        each.start()
    for each in submitting:
        each.join()
    answers = [waiting.answer() for _ in submitting for waiting in results.get()]
    threads.close()
    assert sorted(answers) == list(range(800))  # type: ignore[type-var] # they are what was submitted


def test_where_there_is_no_thread_who_waits_is_told_at_once_and_is_served_when_there_is(threads: Threads) -> None:
    with no_threads():
        for _ in range(5):
            assert isinstance(submitted(threads, lambda: "in vain").answers.get_nowait(), ShortageError)
    assert [submitted(threads, lambda: "served").answer() for _ in range(5)] == ["served"] * 5


def test_what_was_started_before_serves_all_in_time() -> None:
    threads = Threads(8, 60)
    threads.start()
    before = thread_count()
    with no_threads():
        waiting = [submitted(threads, lambda number=number: number) for number in range(50)]  # type: ignore[misc]
        assert [each.answer() for each in waiting] == list(range(50))
    assert thread_count() <= before  # those of other tests may end
    threads.close()


def test_a_start_without_threads_is_an_error_and_can_be_tried_again(threads: Threads) -> None:
    with no_threads(), pytest.raises(ShortageError):
        threads.start()
    threads.start()
    assert submitted(threads, lambda: "served").answer() == "served"


def test_a_stuck_thread_that_cannot_be_replaced_delays_no_caller_beyond_the_deadline() -> None:
    threads = Threads(1, 0.2)
    threads.start()
    back = threading.Event()
    with no_threads():
        stuck, queued = submitted(threads, back.wait), submitted(threads, lambda: "in vain")
        assert isinstance(stuck.answer(), Overdue)
        assert isinstance(queued.answer(), Overdue)
        assert isinstance(submitted(threads, lambda: "in vain").answer(), ShortageError)
    assert submitted(threads, lambda: "served").answer() == "served"
    back.set()
    assert submitted(threads, lambda: "again").answer() == "again"
    threads.close()


def test_what_cannot_be_answered_for_lack_of_memory_is_overdue(threads: Threads) -> None:
    waiting = Waiting()
    tried: list[object] = []

    def answer(result: object) -> None:
        tried.append(result)
        if len(tried) < 3:
            raise MemoryError
        waiting(result)

    threads.submit(lambda: 7, answer)
    assert isinstance(waiting.answer(), Overdue)
    assert tried[0] == 7
    assert not threads.is_busy()
    assert submitted(threads, lambda: "served").answer() == "served"


@pytest.mark.parametrize("seconds", [60, 0.05])
def test_a_thread_that_dies_is_replaced(seconds: float) -> None:
    """The only one that works, and with the shorter time the watchdog, too. `SystemExit` ends a thread silently."""
    threads = Threads(1, seconds, most_stuck=0)
    died = threading.Event()

    def answer(result: object) -> None:
        died.set()
        raise SystemExit

    back = threading.Event()
    threads.submit((lambda: 7) if seconds == 60 else back.wait, answer)
    assert died.wait(_PATIENCE)
    back.set()
    if seconds < 1:
        assert threads._watchdog is not None
        assert threads._watchdog.join(_PATIENCE)
        assert isinstance(submitted(threads, threading.Event().wait).answer(), Overdue)
    else:
        assert submitted(threads, lambda: "served").answer() == "served"
    threads.close()
