"""The reads of the first workload of a mount: which pages of which layers, in order of first use.

A recording begins with the first read of a layer. It is over once no read came, or waited, for a while, or once it has
lasted, or read, long enough. Noting a read costs a fraction of a microsecond, so every mount can record.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Final

from ocifs.hotpack.format import PAGE

QUIET: Final = 2.0
"""Seconds that end a recording, in which no read comes, and none waits for its bytes."""
_SECONDS_MAX: Final = 60.0
_READS_MAX: Final = 100_000

_GAP: Final = 64 << 10
_BEHIND: Final = 32 << 10

Range = tuple[int, int, int]
"""(layer, begin, end) in its tar stream."""


class Recording:
    """The reads of the served file from `first` on, where the layers begin, of up to `limit` bytes."""

    def __init__(self, first: int, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.reads: list[tuple[int, int]] = []
        """(address, size), in order."""
        self._first = first
        self._left = limit
        self._clock = clock
        self._began = self._last = 0.0
        self._waiting = 0
        """Reads that wait for their bytes."""
        self._lock = threading.Lock()
        self._begun = threading.Event()
        self._over = threading.Event()

    def is_full(self) -> bool:
        """Whether it ended at its limit, like a scan of all files."""
        return self._left <= 0 or len(self.reads) >= _READS_MAX

    def note(self, size: int, address: int) -> None:
        """Note a read. Call this from one thread only."""
        if address < self._first or self.is_full():
            return
        self._last = self._clock()
        if not self.reads:
            self._began = self._last
            self._begun.set()
        self.reads.append((address, size))
        self._left -= size
        if self.is_full():
            self._over.set()

    def begin_wait(self) -> None:
        """Note that a read waits for bytes, maybe of a registry."""
        with self._lock:
            self._waiting += 1

    def end_wait(self) -> None:
        """Note that it no longer waits: its reader continues."""
        with self._lock:
            self._waiting -= 1
            self._last = self._clock()

    def wait(self) -> None:
        """Wait until it is over."""
        self._begun.wait()
        while (left := self._left_seconds()) > 0:
            if self._over.wait(left):
                return

    def end(self) -> None:
        """Let `wait` return."""
        self._over.set()
        self._begun.set()

    def _left_seconds(self) -> float:
        """Return how long to wait before it may be over."""
        now = self._clock()
        quiet = now if self._waiting else self._last
        return min(quiet + QUIET, self._began + _SECONDS_MAX) - now


def ranges(
    reads: Iterable[tuple[int, int]], bases: Sequence[int], sizes: Sequence[int], skip: Iterable[Range] = ()
) -> list[Range]:
    """Return the ranges of layers that reads of the served file touched, each page once, in order of first use.

    `bases` are the addresses of the layers, `sizes` the bytes of their streams. Pages of the ranges `skip` are left
    out.
    """
    seen: list[set[int]] = [set() for _ in bases]
    for layer, begin, end in skip:
        seen[layer].update(range(begin // PAGE, -(-end // PAGE)))
    found: list[Range] = []
    for address, size in reads:
        for layer, base in enumerate(bases):
            first = max(address - base, 0) // PAGE
            last = -(-min(address + size - base, sizes[layer]) // PAGE)
            for page in range(first, last):
                if page in seen[layer]:
                    continue
                seen[layer].add(page)
                begin, end = page * PAGE, min((page + 1) * PAGE, sizes[layer])
                if found and found[-1][0] == layer and found[-1][2] == begin:
                    found[-1] = layer, found[-1][1], end
                else:
                    found.append((layer, begin, end))
    return found


def beside(found: Sequence[Range], sizes: Sequence[int], skip: Iterable[Range] = ()) -> list[Range]:
    """Return what lies between two of all these ranges, if it has at most 64 KiB, and 32 KiB behind those in `found`.

    `sizes` are the bytes of the layers' streams. The kernel reads ahead in other steps at each start, and a read of
    which the pack lacks a page takes a whole span.
    """
    ends = {(layer, end) for layer, _, end in found}
    ordered = sorted([*found, *skip])
    between: list[Range] = []
    for (layer, _, end), following in zip_longest(ordered, ordered[1:]):
        has_next = following is not None and following[0] == layer
        border = following[1] if has_next else sizes[layer]
        stop = end
        if has_next and border - end <= _GAP:
            stop = border
        elif (layer, end) in ends:
            stop = min(end + _BEHIND, border)
        if stop > end:
            between.append((layer, end, stop))
    return between
