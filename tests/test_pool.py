import threading

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
        start(threading.Thread(target=print))


def test_other_errors_stay_what_they_are() -> None:
    thread = threading.Thread(target=int)
    start(thread)
    thread.join()
    with pytest.raises(RuntimeError, match="threads can only be started once"):
        start(thread)
    with Pool(1) as pool:
        pool.shutdown()
        with pytest.raises(RuntimeError, match="cannot schedule"):
            pool.submit(len, b"x")
