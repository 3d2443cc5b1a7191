import io
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ocifs.layer.single_flight import StillLoading
from ocifs.layer.span import Span
from ocifs.layer.span_cache import SpanCache


def span_of(data: bytes) -> Span:
    return Span(len(data), io.BytesIO(data))


SPAN = span_of(b"span")


def never() -> Span:
    raise AssertionError


def test_a_span_is_loaded_once_and_by_one() -> None:
    cache = SpanCache()
    begun, back = threading.Event(), threading.Event()

    def load() -> Span:
        begun.set()
        assert back.wait(10)
        return SPAN

    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(cache.get, (0, 0), load)
        assert begun.wait(10)
        others = [threads.submit(cache.get, (0, 0), never) for _ in range(3)]
        assert cache.has((0, 0))
        assert cache.peek((0, 0)) is None
        back.set()
        assert [each.result() for each in (first, *others)] == [SPAN] * 4
    assert cache.peek((0, 0)) is SPAN


def test_the_wait_for_another_reader_is_bounded() -> None:
    cache = SpanCache(patience=0.05)
    begun, back = threading.Event(), threading.Event()

    def load() -> Span:
        begun.set()
        assert back.wait(10)
        return SPAN

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(cache.get, (0, 0), load)
        assert begun.wait(10)
        with pytest.raises(StillLoading):
            cache.get((0, 0), never)
        back.set()
        assert first.result() is SPAN
    assert cache.get((0, 0), never) is SPAN


@pytest.mark.parametrize("error", [TimeoutError("the disk's own"), ValueError("damaged")])
def test_who_waits_is_told_what_went_wrong_and_the_next_one_tries_again(error: Exception) -> None:
    cache = SpanCache(patience=10)

    def fails() -> Span:
        raise error

    with pytest.raises(type(error)):
        cache.get((0, 0), fails)
    assert cache.get((0, 0), lambda: SPAN) is SPAN


def test_the_bound_is_kept() -> None:
    cache = SpanCache(10)
    for number in range(5):
        cache.get((0, number), lambda: span_of(bytes(4)))
    assert cache.used <= 10
    assert cache.peek((0, 4)) is not None
    assert cache.peek((0, 0)) is None
    assert cache.get((0, 9), lambda: span_of(bytes(500))).size == 500  # larger than the cache, but served
    cache.drop((0, 9))
    cache.drop((0, 9))
    assert cache.used == 0
