"""Hand a stream of chunks to several consumers, each in its own thread.

Bounded queues let the consumers lag a few chunks behind the producer. So a burst of work in one consumer does not stop
the others, and threads without the interpreter lock seldom wait for one that holds it. An error in any thread is raised
where the chunks are read.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Semaphore

from ocifs.compression import Chunk
from ocifs.pool import Pool

_BEHIND = 8
"""Queue depth of each consumer, in chunks."""


class _LeftError(Exception):
    """The consumer has stopped reading."""


class _Lane:
    """The queue of one consumer."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Chunk | None] = SimpleQueue()
        self._room = Semaphore(_BEHIND)
        self._left = False

    def __iter__(self) -> Iterator[Chunk]:
        while (chunk := self._queue.get()) is not None:
            yield chunk
            self._room.release()

    def put(self, chunk: Chunk) -> None:
        """Append a chunk, when there is room. Raises _LeftError."""
        self._room.acquire()
        if self._left:
            raise _LeftError
        self._queue.put(chunk)

    def end(self) -> None:
        """Mark the end of the stream."""
        self._queue.put(None)

    def leave(self) -> None:
        """Stop consuming."""
        self._left = True
        self._room.release()


@contextmanager
def tee(chunks: Iterator[Chunk], *works: Callable[[Chunk], object]) -> Iterator[Iterator[Chunk]]:
    """Yield the chunks, produced ahead; each of `works` also gets every chunk, in order.

    Reading raises the errors of the producer and of the works. After the last chunk, all works are done. Raises
    ShortageError if the system does not provide a thread for each, because they wait for each other.
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
                lane.end()  # a consumer waits for the end mark if the producer has stopped


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
