"""Read much of an image in a known order: threads decode spans before the reader reaches them.

A reader of a whole tree knows its reads beforehand. So all processors decode, in order, a bounded number of spans
ahead.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ocifs.image.served_file import ServedFile
from ocifs.pool import Pool

if TYPE_CHECKING:
    from ocifs.layer.layer import Layer

_THREADS = min(os.cpu_count() or 1, 16)
_RUNS_AHEAD = 2 * _THREADS
"""Bounds the memory: runs have about 1 MiB, and none more than 8 MiB, the longest span."""


class _Load(NamedTuple):
    """A function that returns pieces of bytes, and the (piece, start, end) ranges to yield from them."""

    load: Callable[[], list[bytes]]
    cuts: list[tuple[int, int, int]]


def read_ahead(
    served: ServedFile, extents: Iterable[tuple[int, int]], runs_ahead: int = _RUNS_AHEAD
) -> Generator[memoryview, None, None]:
    """Yield the bytes at each (address, size) in turn; no part spans two extents.

    Each extent lies in one layer or in the tree image, as in `TreeImage.extents`. They may come in any order, but only
    ascending addresses decode each span once. `extents` is read only as far as runs of spans are
    decoded ahead, `runs_ahead` at most.

    Raises:
        InvalidImageError: A span fails its verification.
        OSError: A blob cannot be read.
    """
    threads = Pool(_THREADS)
    ahead: deque[tuple[Future[list[bytes]], list[tuple[int, int, int]]]] = deque()
    try:
        for load, cuts in _loads(served, extents):
            ahead.append((threads.submit(load), cuts))
            if len(ahead) > runs_ahead:
                yield from _cut(*ahead.popleft())
        while ahead:
            yield from _cut(*ahead.popleft())
    finally:
        threads.shutdown(cancel_futures=True)


def take(parts: Iterator[memoryview], size: int) -> Iterator[memoryview]:
    """Yield the next parts, `size` bytes in total."""
    while size:
        part = next(parts)
        size -= len(part)
        yield part


def _cut(loaded: Future[list[bytes]], cuts: list[tuple[int, int, int]]) -> Iterator[memoryview]:
    pieces = loaded.result()
    for piece, start, end in cuts:
        yield memoryview(pieces[piece])[start:end]


def _loads(served: ServedFile, extents: Iterable[tuple[int, int]]) -> Iterator[_Load]:
    """Yield the loads in order: each run of consecutive spans once per run of extents in it."""
    run: tuple[Layer, int, int] | None = None
    cuts: list[tuple[int, int, int]] = []
    for address, size in extents:
        position = served.layer_at(address)
        if position is None:
            yield _load(run, cuts)
            yield _Load(partial(_pread, served, size, address), [(0, 0, size)] if size else [])
            run, cuts = None, []
            continue
        layer, offset = position
        end = offset + size
        while offset < end:
            span = layer.span_at(offset)
            if run is None or run[0] is not layer or span not in (run[2], run[2] + 1) or not layer.is_run(run[1], span):
                yield _load(run, cuts)
                run, cuts = (layer, span, span), []
            run = layer, run[1], span
            start, border = layer.index.starts[span : span + 2]
            cuts.append((span - run[1], offset - start, min(end, border) - start))
            offset = border
    yield _load(run, cuts)


def _pread(served: ServedFile, size: int, address: int) -> list[bytes]:
    return [served.pread(size, address)]


def _load(run: "tuple[Layer, int, int] | None", cuts: list[tuple[int, int, int]]) -> _Load:
    if run is None:
        return _Load(list, [])
    layer, first, last = run
    return _Load(lambda: list(layer.decode_run(first, last)), cuts)
