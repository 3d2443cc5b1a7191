"""A stream of chunks that several look at, each in a thread of its own and a few chunks behind the one that makes them.

So a burst of work in one place does not hold up the others, and threads that work without the interpreter lock seldom
wait for one that holds it. What goes wrong in any of them comes out where the chunks are read.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Semaphore

from ocifs.compression import Chunk
from ocifs.pool import Pool

_BEHIND = 8
"""Chunks that somebody may be behind."""


class _LeftError(Exception):
    """Nobody reads a lane any more."""


class _Lane:
    """Chunks on their way to one reader."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Chunk | None] = SimpleQueue()
        self._room = Semaphore(_BEHIND)
        self._left = False

    def __iter__(self) -> Iterator[Chunk]:
        while (chunk := self._queue.get()) is not None:
            yield chunk
            self._room.release()

    def put(self, chunk: Chunk) -> None:
        """Add a chunk when there is room. Raises _LeftError."""
        self._room.acquire()
        if self._left:
            raise _LeftError
        self._queue.put(chunk)

    def end(self) -> None:
        """Say that no more chunks follow."""
        self._queue.put(None)

    def leave(self) -> None:
        """Take no more chunks."""
        self._left = True
        self._room.release()


@contextmanager
def tee(chunks: Iterator[Chunk], *works: Callable[[Chunk], object]) -> Iterator[Iterator[Chunk]]:
    """Give the chunks, which are made ahead; each is handed to every one of `works` as well, in order.

    Reading them raises what making them raises, or a work. When the last is read, all works are done. Raises
    ShortageError where the system does not give a thread to each: they wait for each other.
    """
    lanes = [_Lane() for _ in range(1 + len(works))]
    with Pool(len(lanes)) as threads:
        try:
            working = [threads.submit(_work, work, lane) for work, lane in zip(works, lanes[1:], strict=True)]
            working.append(threads.submit(_make, chunks, lanes))
            yield _read(lanes[0], working)
        finally:
            for lane in lanes:
                lane.leave()
                lane.end()  # a work waits for that if nobody makes chunks


def _make(chunks: Iterator[Chunk], lanes: list[_Lane]) -> None:
    try:
        for chunk in chunks:
            for lane in lanes:
                lane.put(chunk)
    finally:
        for lane in lanes:
            lane.end()


def _work(work: Callable[[Chunk], object], lane: _Lane) -> None:
    try:
        for chunk in lane:
            work(chunk)
    finally:
        lane.leave()


def _read(lane: _Lane, working: list[Future[None]]) -> Iterator[Chunk]:
    yield from lane
    for each in working:
        each.result()
