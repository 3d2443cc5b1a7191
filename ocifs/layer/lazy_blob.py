"""A blob of which a part is here: a sparse file, filled from a registry by the spans that are read.

What is here is not written down anywhere: a span is here if the bytes at its place have its digest, and else it is
fetched, proven by its digest, and put at its place. So a file that was cut short, or that several processes fill at the
same time, is as good as any. A span that is missing is fetched together with those behind it, if the reader goes
forward; how many of them depends on what a round trip costs.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from ocifs.errors import InvalidImageError, RegistryError
from ocifs.layer.index import LayerIndex
from ocifs.layer.single_flight import SingleFlight
from ocifs.reader import FileReader
from ocifs.sources.registry.peer import NoRangesError, Origin

PROFILE_QUIET = 2.0
"""Seconds in which nothing is wanted, after which whoever reads is taken to have started."""

_MOST = 8 << 20
"""Bytes in one request."""

_LONG = 2.0
"""Seconds after which somebody who could not be given a span has waited."""

_SAME_ANSWER = 1.0
"""Seconds in which who asks again for what took so long is told the same: the kernel does so at once, up to twice."""

_LEAST = 256 << 10
"""Bytes that a request takes, if that is no longer than a round trip: for spans of a few bytes."""


class BlobRanges(Protocol):
    """A blob somewhere else."""

    size: int

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset`; raises NoRangesError where only all of it is to be had."""
        ...

    def stream(self) -> Iterator[bytes]:
        """Give all of it in pieces."""
        ...

    def distrust(self) -> bool:
        """Take it from another place, since the bytes were wrong; False if there is none."""
        ...


class LazyBlob(FileReader):
    """A blob of `size` bytes in the sparse file `fd`. What `pread` gives is not proven: `span` is."""

    def __init__(self, fd: int, size: int, origin: Callable[[], Origin], open_remote: Callable[[], BlobRanges]) -> None:
        super().__init__(fd, 0, size)
        self.origin = origin
        """Tells where it is, for another process."""
        self.fetched = 0
        """Bytes that came from the registry."""
        self.requests = 0
        self.touched: dict[int, None] = {}
        """The spans that readers wanted, in order, up to the first moment in which none did (`PROFILE_QUIET`)."""
        self.last_touched = 0.0
        """When a reader last wanted any, by the monotonic clock."""
        self.last_wanted = 0.0
        """When a reader last wanted what was not here, by the monotonic clock."""
        self._open_remote = open_remote
        self._remote: BlobRanges | None = None
        self._failed: dict[int, tuple[float, RegistryError]] = {}
        """When, and why, a span could not be got, for which somebody has waited."""
        self._lock = threading.Lock()
        self._flights: SingleFlight[int, list[bytes]] = SingleFlight(self._lock)
        self._next = -1
        """The span behind the last ones that were fetched: who wants that goes forward."""
        self._ahead = 0
        """Bytes to fetch ahead then."""
        self._worthwhile = 64 << 10
        """Bytes that take about as long as a round trip."""

    def span(self, index: LayerIndex, number: int) -> bytes:
        """Return a span as stored, proven; fetched if it is not here. However many want it, it is fetched once.

        Raises:
            NotFoundError, RegistryError: It cannot be got.
            InvalidImageError: The registry gives other bytes.
        """
        self._touch(number)
        while (data := self.proven(index, number)) is None:
            self.last_wanted = began = time.monotonic()
            failed = self._failed.get(number)
            if failed is not None and began - failed[0] < _SAME_ANSWER:
                raise failed[1]
            try:
                fetched = self._fly(index, number, lambda: self._last_to_fetch(index, number))
            except RegistryError as error:
                if (now := time.monotonic()) - began > _LONG:
                    self._failed[number] = now, error
                raise
            if fetched is not None:
                return fetched[0]
        return data

    def _touch(self, number: int) -> None:
        with self._lock:
            now = time.monotonic()
            if not self.touched or (self.last_touched and now - self.last_touched < PROFILE_QUIET):
                self.touched[number] = None
                self.last_touched = now
            else:
                self.last_touched = 0.0  # the moment has come, once and for all

    def run(self, index: LayerIndex, number: int, most: int, last: int | None = None) -> tuple[int, int]:
        """Fetch a span and those behind it that are missing, about `most` bytes, up to the span `last`.

        Return how many bytes, and which span comes next.
        """
        end = index.span_count - 1 if last is None else last
        fetched = self._fly(index, number, lambda: min(self._last_within(index, number, most), end))
        return (0, number + 1) if fetched is None else (sum(map(len, fetched)), number + len(fetched))

    def fill(self, start: int, end: int) -> bytes:
        """Fetch bytes, keep and return them, whatever is here; nothing proves them but the digest of the whole blob."""
        if start >= end:
            return b""
        data = self._bytes(self._opened(), start, end)
        self._keep(data, start)
        return data

    def _fly(self, index: LayerIndex, number: int, choose_last: Callable[[], int]) -> list[bytes] | None:
        """Fetch spans from `number` on; return None if another thread has fetched it, or does so now."""
        fetched, own = self._flights.run(
            number,
            lambda: None if self.proven(index, number) is None else [],
            lambda: range(number, choose_last() + 1),
            lambda numbers: self._fetch(index, numbers),
        )
        return fetched if own else None

    def proven(self, index: LayerIndex, number: int) -> bytes | None:
        """Return a span as stored if it is here."""
        offset, size = index.stored_range(number)
        data = self.pread(size, offset)
        return data if index.proves(number, data) else None

    def has(self, index: LayerIndex, number: int) -> bool:
        """Whether there is something at the place of a span, without looking at it."""
        offset, size = index.stored_range(number)
        try:
            return size == 0 or os.lseek(self.fd, offset, os.SEEK_HOLE) >= offset + size
        except OSError:
            return False

    def _last_to_fetch(self, index: LayerIndex, number: int) -> int:
        """Return up to which span to fetch: those that follow, if the reader goes forward, as far as none is here."""
        self._ahead = min(max(2 * self._ahead, self._worthwhile), 4 * self._worthwhile) if number == self._next else 0
        ahead = self._ahead + index.stored_range(number)[1]
        last = self._last_within(index, number, min(max(ahead, min(self._worthwhile, _LEAST)), _MOST))
        self._next = last + 1
        return last

    def _last_within(self, index: LayerIndex, number: int, most: int) -> int:
        """Return the last span of those from `number` on that are missing, and `most` bytes together."""
        start = index.stored_range(number)[0]
        last = number
        while last + 1 < index.span_count:
            offset, size = index.stored_range(last + 1)
            if offset + size - start > most or last + 1 in self._flights or self.has(index, last + 1):
                break
            last += 1
        return last

    def _opened(self) -> BlobRanges:
        with self._lock:
            if self._remote is None:
                self._remote = self._open_remote()
            return self._remote

    def _fetch(self, index: LayerIndex, wanted: range) -> list[bytes]:
        """Fetch spans that follow each other, prove and keep them."""
        start = index.stored_range(wanted[0])[0]
        offset, size = index.stored_range(wanted[-1])
        began = time.monotonic()
        remote = self._opened()
        while True:
            data = self._bytes(remote, start, offset + size)
            pieces = [piece for number in wanted if (piece := self._piece(index, number, data, start)) is not None]
            if len(pieces) == len(wanted):
                break
            if not remote.distrust():
                raise InvalidImageError(
                    f"layer {index.summary.blob_digest}: the registry gives other bytes {start}..{offset + size} than "
                    "the index of the layer says"
                )
        self._learn(len(data), time.monotonic() - began)
        self._keep(data, start)
        return pieces

    def _bytes(self, remote: BlobRanges, start: int, end: int) -> bytes:
        self.requests += 1
        try:
            data = remote.pread(end - start, start)
        except NoRangesError:
            return self._whole(remote, start, end)
        self.fetched += len(data)
        return data

    def _piece(self, index: LayerIndex, number: int, data: bytes, start: int) -> bytes | None:
        """Return a span that is in `data`, which begins at `start`, if it is proven."""
        offset, size = index.stored_range(number)
        piece = data[offset - start : offset - start + size]
        return piece if index.proves(number, piece) else None

    def _whole(self, remote: BlobRanges, start: int, end: int) -> bytes:
        """Take all of the blob, once, from a registry that gives no ranges; return a part of it."""
        place = 0
        wanted = bytearray()
        for piece in remote.stream():
            self._keep(piece, place)
            wanted += piece[max(start - place, 0) : max(end - place, 0)]
            place += len(piece)
        self.fetched += place
        return bytes(wanted)

    def _keep(self, data: bytes, offset: int) -> None:
        with contextlib.suppress(OSError):  # a disk that is full: then it is fetched again
            view = memoryview(data)
            while view:
                written = os.pwrite(self.fd, view, offset)
                view, offset = view[written:], offset + written

    def _learn(self, size: int, seconds: float) -> None:
        """Take note of what a request costs: small ones tell of the round trip, large ones of the rate."""
        rate = size / max(seconds, 1e-6)
        self._worthwhile = int(min(max(self._worthwhile * 0.7 + 0.3 * rate * 0.05, 64 << 10), _MOST // 4))
