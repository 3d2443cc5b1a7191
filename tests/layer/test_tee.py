"""Chunks for several at once: each gets all of them in order, and whatever goes wrong comes out once, and soon."""

import threading
from collections.abc import Iterator

import pytest

from ocifs.errors import ShortageError
from ocifs.layer.tee import tee
from tests.shortage import no_threads

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

    before = threading.active_count()
    with tee(make(), len, len) as chunks:
        for _ in range(30):
            next(chunks)
    assert threading.active_count() == before


def test_nobody_is_far_behind() -> None:
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


@pytest.mark.parametrize("there_are", range(3))
def test_too_few_threads_are_an_error_and_nobody_waits_for_the_others(
    there_are: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = threading.Thread.start
    begun: list[threading.Thread] = []

    def start(thread: threading.Thread) -> None:
        if len(begun) < there_are:
            begin(thread)
            begun.append(thread)
            return
        with no_threads():
            begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(ShortageError, match="no more threads"), tee(iter(CHUNKS), len, len):
        pass
    assert [thread.is_alive() for thread in begun] == [False] * there_are
