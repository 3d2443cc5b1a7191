"""A least recently used cache of spans with a size limit, shared by the layers of an image.

Single flight: if several readers request a span, one reads and verifies it, and the others wait. Safe to use from any
thread. It does not know how to decode a span.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable

from ocifs.layer.single_flight import SingleFlight
from ocifs.layer.span import Span

DEFAULT_CAPACITY = 64 << 20
"""Bytes."""

Key = tuple[int, int]
"""(layer, span)"""


class SpanCache:
    """Holds spans of up to `capacity` bytes; each counts with its full size, decoded or not.

    No reader waits for another reader's load for more than `patience` seconds.
    """

    def __init__(self, capacity: int = DEFAULT_CAPACITY, patience: float | None = None) -> None:
        self.capacity = capacity
        self.used = 0
        self.loaded = 0
        """Spans that were read and verified."""
        self._spans: OrderedDict[Key, Span] = OrderedDict()
        self._lock = threading.Lock()
        self._flights: SingleFlight[Key, Span] = SingleFlight(self._lock, patience)

    def peek(self, key: Key) -> Span | None:
        """Return the span if it is cached, without waiting."""
        with self._lock:
            span = self._spans.get(key)
            if span is not None:
                self._spans.move_to_end(key)
            return span

    def has(self, key: Key) -> bool:
        """Whether the span is cached and decoded, or is being loaded."""
        with self._lock:
            span = self._spans.get(key)
            return key in self._flights if span is None else span.is_done()

    def drop(self, key: Key) -> None:
        """Remove a span that failed to decode."""
        with self._lock:
            if (span := self._spans.pop(key, None)) is not None:
                self.used -= span.size

    def get(self, key: Key, load: Callable[[], Span]) -> Span:
        """Return the span, from `load` if it is not cached.

        Raises the errors of `load`, to every waiting reader; and `StillLoading` to a reader that waited too long.
        """
        if (span := self.peek(key)) is not None:
            return span
        span, _ = self._flights.run(
            key, lambda: self._spans.get(key), lambda: (key,), lambda _: self._insert(key, load())
        )
        return span

    def _insert(self, key: Key, span: Span) -> Span:
        with self._lock:
            self._spans[key] = span
            self.used += span.size
            self.loaded += 1
            while self.used > self.capacity and len(self._spans) > 1:
                _, evicted = self._spans.popitem(last=False)
                self.used -= evicted.size
        return span
