"""Chunks for several at once: each gets all of them in order, and whatever goes wrong comes out once, and soon."""

import _thread
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest

from ocifs.errors import ShortageError
from ocifs.layer.tee import tee
from tests.shortage import no_threads
from tests.waiting import thread_count, wait_for

CHUNKS = [b"%d" % number for number in range(100)]


def test_each_gets_every_chunk_in_order() -> None:
    first: list[object] = []
    second: list[object] = []
    with tee(iter(CHUNKS), first.append, second.append) as chunks:
        assert list(chunks) == CHUNKS
        assert first == second == CHUNKS


def test_an_error_of_a_work_comes_out_where_chunks_are_read() -> None:
    def work(chunk: object) -> None:
        if chunk == b"30":
            raise LookupError("thirty")

    with pytest.raises(LookupError, match="thirty"), tee(iter(CHUNKS * 10), work, len) as chunks:
        list(chunks)


def test_an_error_of_the_maker_comes_out_after_what_it_made() -> None:
    def make() -> Iterator[bytes]:
        yield from CHUNKS[:30]
        raise LookupError("no more")

    got: list[object] = []
    with pytest.raises(LookupError, match="no more"), tee(make(), len) as chunks:
        got.extend(chunks)
    assert got == CHUNKS[:30]


def test_all_ends_when_the_reader_has_enough() -> None:
    def make() -> Iterator[bytes]:
        while True:
            yield b"chunk"

    before = thread_count()
    with tee(make(), len, len) as chunks:
        for _ in range(30):
            next(chunks)
    wait_for(lambda: thread_count() <= before)


def test_no_consumer_falls_far_behind() -> None:
    made: list[bytes] = []

    def make() -> Iterator[bytes]:
        for chunk in CHUNKS:
            made.append(chunk)
            yield chunk

    slow = threading.Event()
    with tee(make(), lambda chunk: slow.wait(30)) as chunks:
        next(chunks)
        assert len(made) < 20
        slow.set()
        assert len(list(chunks)) == 99


@pytest.mark.parametrize("available", range(3))
def test_too_few_threads_are_an_error_and_no_thread_stays(available: int, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = _thread.start_new_thread
    left = iter(range(available))

    def start(work: Callable[[], None], arguments: tuple[()]) -> int:
        with no_threads() if next(left, None) is None else nullcontext():
            return begin(work, arguments)

    before = thread_count()
    monkeypatch.setattr(_thread, "start_new_thread", start)
    with pytest.raises(ShortageError, match="no more threads"), tee(iter(CHUNKS), len, len):
        pass
    wait_for(lambda: thread_count() <= before)
