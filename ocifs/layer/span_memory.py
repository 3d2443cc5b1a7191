"""Memory for decoded spans: slots of equal size in one mapping, so the spans of a daemon never fragment its heap.

A slot is free again once its span is evicted and no reader has a view of it, which Python's reference counts tell. So
the memory of all spans stays below the size of the mapping, and no reader sees the bytes of another span. Thread-safe.
It does not know which spans to evict.
"""

import contextlib
import ctypes
import mmap
import weakref
from collections import deque
from typing import Final

SLOT: Final = 64 << 10
"""Bytes of a slot: half of one is unused at the end of a span, on average."""
_SPARE: Final = 8
"""One eighth more slots than the capacity needs, for those unused ends and for spans that are being read."""


def trim_heap() -> None:
    """Return free memory of the heap, such as that of ended decoders, to the system (malloc_trim(3))."""
    with contextlib.suppress(AttributeError):  # another library than glibc
        ctypes.CDLL(None).malloc_trim(0)


class _Slot(ctypes.Array[ctypes.c_ubyte]):
    """A slot in use. Views of it keep it alive, and its end frees the memory."""

    _type_ = ctypes.c_ubyte
    _length_ = SLOT


class SpanMemory:
    """Memory for spans of `capacity` bytes together. The system provides it as it is used."""

    def __init__(self, capacity: int) -> None:
        """Reserve addresses. Raises OSError, if the process may not have that many."""
        count = -(-capacity // SLOT)
        self._count = max(count + count // _SPARE, 1)
        self._mapping = mmap.mmap(-1, self._count * SLOT, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._fresh = iter(range(self._count))
        """Slots that have never been used."""
        self._free: deque[int] = deque()
        """The slot at the end is used next: the memory of the last one to become free is there already."""
        self._resident: set[int] = set()
        """The slots whose memory the system has provided."""
        self._in_use: dict[int, weakref.ref[_Slot]] = {}

    def keep(self, data: bytes) -> tuple[memoryview | bytes, ...]:
        """Copy `data` into free slots and return views of them; or return `data` itself if there are too few slots."""
        whole = memoryview(data)
        views: list[memoryview | bytes] = []
        for begin in range(0, len(data), SLOT):
            if (number := self._next()) is None:
                return (data,)  # the end of `views` frees the slots that it had
            piece = whole[begin : begin + SLOT]
            view = self._take(number)[: len(piece)]
            view[:] = piece
            views.append(view.toreadonly())
        return tuple(views)

    def release(self, spare: int = 0) -> None:
        """Return the memory of free slots to the system if it is more than `spare` bytes."""
        if len(self._resident) * SLOT <= self.used + spare:
            return
        held: list[int] = []
        with contextlib.suppress(IndexError):
            while True:
                held.append(self._free.pop())
        for number in self._resident.intersection(held):
            self._mapping.madvise(mmap.MADV_DONTNEED, number * SLOT, SLOT)
            self._resident.discard(number)
        self._free.extend(reversed(held))

    @property
    def used(self) -> int:
        """Bytes of slots in use."""
        return len(self._in_use) * SLOT

    def _next(self) -> int | None:
        """Return the number of a slot that the caller may use; None if there is none."""
        try:
            return self._free.pop()
        except IndexError:
            return next(self._fresh, None)

    def _take(self, number: int) -> memoryview:
        self._resident.add(number)
        slot = _Slot.from_buffer(self._mapping, number * SLOT)
        in_use, free = self._in_use, self._free

        def end(slot: object) -> None:
            # Each step is atomic: the last reader's thread comes here, and must not wait for a lock.
            del in_use[number]
            free.append(number)

        in_use[number] = weakref.ref(slot, end)
        return memoryview(slot).cast("B")
