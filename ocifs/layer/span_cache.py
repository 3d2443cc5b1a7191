"""A least recently used cache of spans with a size limit, shared by the layers of an image.

Single flight: if several readers request a span, one reads and verifies it, and the others wait. Safe to use from any
thread. It does not know how to decode a span, nor how other mounts share theirs.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ocifs.errors import InvalidImageError
from ocifs.layer.single_flight import SingleFlight
from ocifs.layer.span import Span, in_heap

if TYPE_CHECKING:  # it loads ctypes, which only a mount needs
    from ocifs.layer.span_memory import SpanMemory

DEFAULT_CAPACITY = 64 << 20
"""Bytes."""

_SPARE = 4 << 20
"""Bytes of memory to keep for the next spans when shared ones replace own ones."""

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

    Spans in memory that mounts share do not count: `sharing` bounds these, and ends their use by `drop_shared`. The
    bytes of others stay in `memory`, or in the heap. No reader waits for another reader's load for more than `patience`
    seconds.
    """

    def __init__(
        self, capacity: int = DEFAULT_CAPACITY, patience: float | None = None, memory: "SpanMemory | None" = None
    ) -> None:
        self.capacity = capacity
        self.used = 0
        self.loaded = 0
        """Spans that were read and verified."""
        self.sharing: Sharing | None = None
        """Set before the first span is read, if at all."""
        self._memory = memory
        self._keep = in_heap if memory is None else memory.keep
        self._spans: OrderedDict[Key, Span] = OrderedDict()
        self._shared: dict[Key, Span] = {}
        self._lock = threading.Lock()
        self._flights: SingleFlight[Key, Span] = SingleFlight(self._lock, patience)

    def peek(self, key: Key) -> Span | None:
        """Return the span if it is cached, without waiting."""
        with self._lock:
            span = self._spans.get(key)
            if span is None:
                return self._shared.get(key)
            self._spans.move_to_end(key)
            return span

    def cached(self, key: Key) -> Span | None:
        """Return the span if it is cached, without marking it as used."""
        with self._lock:
            return self._cached(key)

    def has(self, key: Key) -> bool:
        """Whether the span is cached and decoded, or is being loaded."""
        with self._lock:
            span = self._cached(key)
            return key in self._flights if span is None else span.is_done()

    def drop(self, key: Key, span: Span | None = None) -> None:
        """Remove a span, for example one that failed to decode; with `span`, only if it is that one."""
        with self._lock:
            cached = self._cached(key)
            if cached is None or span not in (None, cached):
                return
            self._remove(key)
        if self.sharing is not None:
            self.sharing.dropped(key)

    def drop_shared(self, key: Key) -> None:
        """Remove a span if its memory is shared."""
        with self._lock:
            self._shared.pop(key, None)

    def clear(self) -> None:
        """Remove all spans, without a note to `sharing`, and return the memory to the system."""
        with self._lock:
            self._spans.clear()
            self._shared.clear()
            self.used = 0
        self.release()

    def release(self) -> None:
        """Return unused memory to the system."""
        if self._memory is not None:
            self._memory.release()

    def replace(self, key: Key, span: Span, view: memoryview) -> bool | None:
        """Let a cached span use the shared memory `view`, if its bytes are the same, and return as `Span.replace`."""
        if same := span.replace(view):
            with self._lock:
                if self._spans.get(key) is span:
                    self._remove(key)
                    self._shared[key] = span
            if self._memory is not None:
                self._memory.release(_SPARE)
        return same

    def get(self, key: Key, load: Callable[[], Span]) -> Span:
        """Return the span, from `load` if it is not cached.

        Raises the errors of `load`, to every waiting reader; and `StillLoading` to a reader that waited too long.
        """
        if (span := self.peek(key)) is not None:
            return span

        def load_into_cache(keys: tuple[Key]) -> Span:
            span = load()
            self.loaded += not span.is_shared
            return self._insert(key, span)

        return self._flights.run(key, lambda: self._cached(key), lambda: (key,), load_into_cache)[0]

    def decoded(self, key: Key, size: int, end: int, load: Callable[[], Span], *, shared: bool) -> Span:
        """Return a span of `size` bytes that is decoded up to its byte `end` at least.

        If `shared`, other mounts may have decoded it, and may use what this one decodes.

        Raises the errors of `get`, and InvalidImageError.
        """
        sharing = self.sharing if shared else None
        find_or_load = load if sharing is None else lambda: _find(sharing, key, size, end) or load()
        while not (span := self.get(key, find_or_load)).reaches(end):  # another mount has decoded less
            self.drop(key, span)
        try:
            has_more = span.decode(end)
        except InvalidImageError:
            self.drop(key, span)
            raise
        if has_more and sharing is not None:
            self._insert(key, span)  # its memory may have been shared, and not counted
            sharing.decoded(key, span)
        return span

    def _cached(self, key: Key) -> Span | None:
        return self._spans.get(key) or self._shared.get(key)

    def _insert(self, key: Key, span: Span) -> Span:
        span.keep = self._keep
        evicted: list[Key] = []
        with self._lock:
            self._remove(key)
            if span.is_shared:
                self._shared[key] = span
                return span
            self._spans[key] = span
            self.used += span.size
            while self.used > self.capacity and len(self._spans) > 1:
                evicted.append(next(iter(self._spans)))
                self._remove(evicted[-1])
        if self.sharing is not None:
            for old in evicted:
                self.sharing.dropped(old)
        return span

    def _remove(self, key: Key) -> None:
        self._shared.pop(key, None)
        if (span := self._spans.pop(key, None)) is not None:
            self.used -= span.size


def _find(sharing: Sharing, key: Key, size: int, end: int) -> Span | None:
    found = sharing.find(key, size, end)
    return None if found is None else Span(size, None, shared=found)
