"""Reading much of an image in a known order: each span is decoded, in a thread, before its bytes are asked for.

Whoever goes through a whole tree knows beforehand what it will read; so all processors decode, in order, a bounded
number of spans ahead. It does not know what the bytes are for.
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
"""Bounds the memory: nearly all spans are of 1 MiB, none is longer than 8 MiB."""


class _Load(NamedTuple):
    """Some bytes, and from where to where of them is wanted, in turn."""

    load: Callable[[], bytes]
    cuts: list[tuple[int, int]]


def read_ahead(served: ServedFile, extents: Iterable[tuple[int, int]]) -> Generator[memoryview, None, None]:
    """Give the bytes at each (address, size) in turn, in parts of which none is of two extents.

    Each lies in one layer or in the tree image, as `TreeImage.extents` says. They may come in any order, but only when
    addresses ascend is each span decoded once. They are asked for no further than spans are decoded ahead.

    Raises:
        InvalidImageError: Bytes cannot be proven to be those that were indexed.
        OSError: A blob cannot be read.
    """
    threads = Pool(_THREADS, thread_name_prefix="decode")
    ahead: deque[tuple[Future[bytes], list[tuple[int, int]]]] = deque()
    try:
        for load, cuts in _loads(served, extents):
            ahead.append((threads.submit(load), cuts))
            if len(ahead) > _SPANS_AHEAD:
                yield from _cut(*ahead.popleft())
        while ahead:
            yield from _cut(*ahead.popleft())
    finally:
        threads.shutdown(cancel_futures=True)


def _cut(loaded: Future[bytes], cuts: list[tuple[int, int]]) -> Iterator[memoryview]:
    view = memoryview(loaded.result())
    for start, end in cuts:
        yield view[start:end]


def _loads(served: ServedFile, extents: Iterable[tuple[int, int]]) -> Iterator[_Load]:
    """Give what has to be loaded, in turn: a span once for all that is wanted of it before another one is."""
    wanted: tuple[Layer, int] | None = None
    load = _Load(bytes, [])
    for address, size in extents:
        place = served.layer_at(address)
        if place is None:
            yield load
            yield _Load(partial(served.pread, size, address), [(0, size)] if size else [])
            wanted, load = None, _Load(bytes, [])
            continue
        layer, offset = place
        end = offset + size
        while offset < end:
            span = layer.span_at(offset)
            if wanted != (layer, span):
                yield load
                wanted, load = (layer, span), _Load(partial(layer.decode, span), [])
            start, border = layer.index.starts[span : span + 2]
            load.cuts.append((offset - start, min(end, border) - start))
            offset = border
    yield load
