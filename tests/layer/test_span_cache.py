import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ocifs.layer.span_cache import SpanCache, StillLoading


def never() -> bytes:
    raise AssertionError


def test_a_span_is_loaded_once_and_by_one() -> None:
    cache = SpanCache()
    begun, back = threading.Event(), threading.Event()

    def load() -> bytes:
        begun.set()
        assert back.wait(10)
        return b"span"

    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(cache.get, (0, 0), load)
        assert begun.wait(10)
        others = [threads.submit(cache.get, (0, 0), never) for _ in range(3)]
        assert cache.has((0, 0))
        assert cache.peek((0, 0)) is None
        back.set()
        assert [each.result() for each in (first, *others)] == [b"span"] * 4
    assert cache.peek((0, 0)) == b"span"


def test_nobody_waits_longer_for_somebody_else_than_patience_lasts() -> None:
    cache = SpanCache(patience=0.05)
    begun, back = threading.Event(), threading.Event()

    def load() -> bytes:
        begun.set()
        assert back.wait(10)
        return b"span"

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(cache.get, (0, 0), load)
        assert begun.wait(10)
        with pytest.raises(StillLoading):
            cache.get((0, 0), never)
        back.set()
        assert first.result() == b"span"
    assert cache.get((0, 0), never) == b"span"


@pytest.mark.parametrize("error", [TimeoutError("the disk's own"), ValueError("damaged")])
def test_who_waits_is_told_what_went_wrong_and_the_next_one_tries_again(error: Exception) -> None:
    cache = SpanCache(patience=10)

    def fails() -> bytes:
        raise error

    with pytest.raises(type(error)):
        cache.get((0, 0), fails)
    assert cache.get((0, 0), lambda: b"span") == b"span"


def test_the_bound_is_kept() -> None:
    cache = SpanCache(10)
    for number in range(5):
        cache.get((0, number), lambda: bytes(4))
    assert cache.used <= 10
    assert cache.peek((0, 4)) is not None
    assert cache.peek((0, 0)) is None
