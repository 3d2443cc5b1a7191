import subprocess
import sys
import time
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from threading import Event, Semaphore

import pytest

from ocifs.errors import ShortageError
from ocifs.pool import Pool, start
from tests.shortage import no_threads


def test_a_pool_says_that_there_is_no_thread_and_ends() -> None:
    with Pool(2) as pool:
        with no_threads(), pytest.raises(ShortageError, match=r"^no more threads: raise the limit \(ulimit -u, "):
            pool.submit(len, b"x")
        assert pool.submit(len, b"yes").result() == 3


def test_a_thread_that_cannot_be_started_says_so() -> None:
    with no_threads(), pytest.raises(ShortageError, match="no more threads"):
        start(print)


def test_work_whose_thread_begins_too_late_never_runs() -> None:
    """Without patience, the thread and the caller compete: either the caller gets the thread, or the work is over."""
    ran: list[int] = []
    begun: list[int] = []
    for number in range(300):
        with suppress(ShortageError):
            start(partial(ran.append, number), patience=0).join()
            begun.append(number)
    time.sleep(0.1)  # for threads that are late
    assert ran == begun
    assert len(begun) < 300


_STARVED = """
import resource, sys, threading
from ocifs.errors import ShortageError
from ocifs.pool import start

def main():
    start(len).join()
    resource.setrlimit(resource.RLIMIT_AS, (100 << 20,) * 2)
    rest, size = [], 1 << 18
    while size >= 256:
        try:
            rest.append(bytes(size))
        except MemoryError:
            size //= 2
    died = 0
    for attempt in range(3000):
        try:
            start(int, 0.2)
        except ShortageError as error:
            died += "did not begin" in str(error)
        except MemoryError:
            pass
        if died == 3:
            break
        if attempt % int(sys.argv[1]) == 0 and rest:
            rest.pop()

threading.stack_size(1 << 18)
main()
"""


@pytest.mark.parametrize("attempts", [3, 10, 30])
def test_a_thread_that_runs_out_of_memory_before_it_begins_blocks_no_caller(attempts: int) -> None:
    """With `threading.Thread`, about every other of these programs waits in `start` for ever.

    How many threads die depends on the sizes of free blocks; after three the program has seen enough.
    """
    subprocess.run([sys.executable, "-c", _STARVED, str(attempts)], timeout=60, stderr=subprocess.DEVNULL, check=True)


def test_a_thread_can_be_awaited() -> None:
    go = Event()
    thread = start(go.wait)
    assert not thread.join(0.01)
    go.set()
    thread.join()
    assert thread.join(0)


def test_a_pool_raises_the_exceptions_of_its_work_and_takes_no_work_after_its_end() -> None:
    with Pool(1) as pool:
        with pytest.raises(ValueError, match="invalid literal"):
            pool.submit(int, "x").result()
        assert pool.submit(int, "1").result() == 1
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(len, b"x")


def test_a_pool_outlives_a_callback_that_ends_its_thread() -> None:
    with Pool(1) as pool:
        go = Event()
        first = pool.submit(go.wait)
        first.add_done_callback(lambda _: sys.exit())
        second = pool.submit(len, b"x")
        go.set()
        assert (first.result(), second.result()) == (True, 1)
        assert pool.submit(len, b"yes").result() == 3


def test_a_pool_that_waits_needs_one_thread() -> None:
    begun, go = Event(), Event()

    def work() -> None:
        begun.set()
        go.wait()

    with Pool(8, waits=True) as pool:
        with no_threads(), pytest.raises(ShortageError):
            pool.start()
        with no_threads(), pytest.raises(ShortageError):
            pool.submit(len, b"x")
        pool.start()
        with no_threads():
            first, others = pool.submit(work), [pool.submit(len, bytes(size)) for size in range(9)]
            begun.wait()
            assert not any(each.done() for each in others)
            go.set()
            assert [each.result() for each in others] == [*range(9)]
        assert first.result() is None


def test_a_pool_starts_no_more_threads_than_it_needs_or_may() -> None:
    begun, go = Semaphore(0), Event()

    def work() -> None:
        begun.release()
        go.wait()

    with Pool(2) as pool:
        working = [pool.submit(work) for _ in range(3)]
        assert begun.acquire(timeout=60)
        assert begun.acquire(timeout=60)
        assert not begun.acquire(timeout=0.05)
        go.set()
    assert all(each.done() for each in working)


def test_a_shutdown_can_cancel_what_has_not_begun() -> None:
    begun, go = Event(), Event()
    pool = Pool(1)

    def work() -> bool:
        begun.set()
        return go.wait()

    first = pool.submit(work)
    second = pool.submit(len, b"x")
    begun.wait()
    pool.shutdown(wait=False, cancel_futures=True)
    go.set()
    pool.shutdown()
    assert first.result()
    with pytest.raises(CancelledError):
        second.result()


_INTERRUPTED = """
import os, random, signal, time
from ocifs.pool import Pool

def interrupt(signum, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
chance = random.Random(1)
for attempt in range(2000):
    pool = Pool(3)
    try:
        with pool:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 4e-4))
            for _ in range(3):
                pool.submit(time.sleep, 1e-5)
            time.sleep(1e-3)
    except KeyboardInterrupt:
        pass
"""


def test_an_interrupt_at_any_moment_of_a_submission_does_not_block_the_end() -> None:
    subprocess.run([sys.executable, "-c", _INTERRUPTED], timeout=60, check=True)
