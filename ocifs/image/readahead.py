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
_SPANS_AHEAD = 2 * _THREADS
"""Bounds the memory: nearly all spans have 1 MiB, and none more than 8 MiB."""


class _Load(NamedTuple):
    """A function that returns bytes, and the (start, end) ranges to yield from them."""

    load: Callable[[], bytes]
    cuts: list[tuple[int, int]]


def read_ahead(
    served: ServedFile, extents: Iterable[tuple[int, int]], spans_ahead: int = _SPANS_AHEAD
) -> Generator[memoryview, None, None]:
    """Yield the bytes at each (address, size) in turn; no part spans two extents.

    Each extent lies in one layer or in the tree image, as in `TreeImage.extents`. They may come in any order, but only
    ascending addresses decode each span once. `extents` is read only as far as spans are decoded
    ahead, `spans_ahead` at most.

    Raises:
        InvalidImageError: A span fails its verification.
        OSError: A blob cannot be read.
    """
    threads = Pool(_THREADS)
    ahead: deque[tuple[Future[bytes], list[tuple[int, int]]]] = deque()
    try:
        for load, cuts in _loads(served, extents):
            ahead.append((threads.submit(load), cuts))
            if len(ahead) > spans_ahead:
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


def _cut(loaded: Future[bytes], cuts: list[tuple[int, int]]) -> Iterator[memoryview]:
    view = memoryview(loaded.result())
    for start, end in cuts:
        yield view[start:end]


def _loads(served: ServedFile, extents: Iterable[tuple[int, int]]) -> Iterator[_Load]:
    """Yield the loads in order: each span once per run of extents in it."""
    current: tuple[Layer, int] | None = None
    load = _Load(bytes, [])
    for address, size in extents:
        position = served.layer_at(address)
        if position is None:
            yield load
            yield _Load(partial(served.pread, size, address), [(0, size)] if size else [])
            current, load = None, _Load(bytes, [])
            continue
        layer, offset = position
        end = offset + size
        while offset < end:
            span = layer.span_at(offset)
            if current != (layer, span):
                yield load
                current, load = (layer, span), _Load(partial(layer.decode, span), [])
            start, border = layer.index.starts[span : span + 2]
            load.cuts.append((offset - start, min(end, border) - start))
            offset = border
    yield load
