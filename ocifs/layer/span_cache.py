"""A least recently used cache of spans with a size limit, shared by the layers of an image.

Single flight: if several readers request a span, one reads and verifies it, and the others wait. Safe to use from any
thread. It does not know how to decode a span, nor how other mounts share theirs.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from ocifs.errors import InvalidImageError
from ocifs.layer.single_flight import SingleFlight
from ocifs.layer.span import Keep, Span, in_heap

DEFAULT_CAPACITY = 64 << 20
"""Bytes."""

Key = tuple[int, int]
"""(layer, span)"""


class Sharing(Protocol):
    """The exchange of decoded spans with other mounts. Its methods are called from any thread, without a lock."""

    def find(self, key: Key, size: int, end: int) -> memoryview | None:
        """Return at least the first `end` bytes of a span of `size` bytes if another mount has them; never raise."""
        ...

    def decoded(self, key: Key, span: Span) -> None:
        """Note that this mount has decoded more of a span."""
        ...

    def dropped(self, key: Key) -> None:
        """Note that this mount no longer has a span."""
        ...


class SpanCache:
    """Holds spans of up to `capacity` bytes; each counts with its full size, decoded or not.

    No reader waits for another reader's load for more than `patience` seconds. `keep` says where decoded bytes stay.
    """

    def __init__(self, capacity: int = DEFAULT_CAPACITY, patience: float | None = None, keep: Keep = in_heap) -> None:
        self.capacity = capacity
        self.used = 0
        self.loaded = 0
        """Spans that were read and verified."""
        self.sharing: Sharing | None = None
        """Set before the first span is read, if at all."""
        self._keep = keep
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

    def drop(self, key: Key, span: Span | None = None) -> None:
        """Remove a span, for example one that failed to decode; with `span`, only if it is that one."""
        with self._lock:
            cached = self._spans.get(key)
            if cached is None or span not in (None, cached):
                return
            del self._spans[key]
            self.used -= cached.size
        if self.sharing is not None:
            self.sharing.dropped(key)

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

    def decoded(self, key: Key, size: int, end: int, load: Callable[[], Span], *, shared: bool) -> Span:
        """Return a span of `size` bytes that is decoded up to its byte `end` at least.

        If `shared`, other mounts may have decoded it, and may use what this one decodes.

        Raises the errors of `get`, and InvalidImageError.
        """
        sharing = self.sharing if shared else None
        find_or_load = load if sharing is None else lambda: self._find(sharing, key, size, end) or load()
        while not (span := self.get(key, find_or_load)).reaches(end):
            self.drop(key, span)
        try:
            has_more = span.decode(end)
        except InvalidImageError:
            self.drop(key, span)
            raise
        if has_more and sharing is not None:
            sharing.decoded(key, span)
        return span

    def _find(self, sharing: Sharing, key: Key, size: int, end: int) -> Span | None:
        found = sharing.find(key, size, end)
        return None if found is None else Span(size, None, shared=found)

    def _insert(self, key: Key, span: Span) -> Span:
        span.keep = self._keep
        evicted: list[Key] = []
        with self._lock:
            self._spans[key] = span
            self.used += span.size
            self.loaded += span.shared is None
            while self.used > self.capacity and len(self._spans) > 1:
                old, dropped = self._spans.popitem(last=False)
                self.used -= dropped.size
                evicted.append(old)
        if self.sharing is not None:
            for old in evicted:
                self.sharing.dropped(old)
        return span
