"""A partly cached blob: a sparse file, filled from a registry with the spans that are read.

A published LayerIndex is such a blob, too: its spans are its windows (`ocifs.layer.windows`).

There is no record of the cached spans: a span is cached if the bytes at its offset have its digest. Else it is fetched,
verified by its digest, and written to its offset. So a truncated file, or one that several processes fill at the same
time, works like any other. If the reader is sequential, a request for a missing span also fetches the next ones; the
cost of a round trip decides how many.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Protocol

from ocifs.errors import InvalidImageError, RegistryError
from ocifs.layer.single_flight import SingleFlight
from ocifs.reader import FileReader
from ocifs.sources.registry.peer import BlobOrigin, NoRangesError

_REQUEST_MAX = 8 << 20
"""Maximum bytes of one request."""

_SLOW = 2.0
"""How long a fetch must take before its failure is cached, in seconds."""

_FAILURE_TTL = 1.0
"""How long a slow failure is cached, in seconds: the kernel retries a read at once, up to twice."""

_REQUEST_MIN = 256 << 10
"""Minimum bytes of a request, if they take no longer than a round trip; for spans of a few bytes."""


class Spans(Protocol):
    """The parts of a blob that are fetched, in order, each with a digest; a `LayerIndex` describes those of a layer."""

    @property
    def name(self) -> str:
        """The blob in errors."""
        ...

    @property
    def span_count(self) -> int:
        """Number of spans."""
        ...

    def stored_range(self, span: int) -> tuple[int, int]:
        """Return (offset, size) of a span in the blob."""
        ...

    def verified(self, span: int, stored: bytes) -> bytes | None:
        """Return the span, or what it decodes to, if `stored` has its digest; else None."""
        ...


class BlobRanges(Protocol):
    """Reads ranges of a remote blob."""

    size: int

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset`. Raises NoRangesError if the server only sends the whole blob."""
        ...

    def stream(self, start: int = 0) -> Iterator[bytes]:
        """Yield the blob from `start` on, in pieces."""
        ...

    def distrust(self) -> bool:
        """Switch to another endpoint, because the bytes were wrong; return False if there is none."""
        ...


class LazyBlob(FileReader):
    """A blob of `size` bytes in the sparse file `fd`. `pread` returns unverified bytes; `span` verifies them."""

    def __init__(
        self,
        fd: int,
        size: int,
        origin: Callable[[], BlobOrigin],
        open_remote: Callable[[], BlobRanges],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(fd, 0, size)
        self._clock = clock
        self.origin = origin
        """Returns the remote location, for another process."""
        self.fetched = 0
        """Bytes fetched from the registry."""
        self.requests = 0
        self.is_complete = False
        """Whether all of it is known to be there, and verified."""
        self.last_wanted = 0.0
        """When a reader last requested a missing span, by the monotonic clock."""
        self._open_remote = open_remote
        self._remote: BlobRanges | None = None
        self._failed: dict[int, tuple[float, RegistryError]] = {}
        """Time and error of each slow failure, by span."""
        self._lock = threading.Lock()
        self._flights: SingleFlight[int, tuple[bytes, range]] = SingleFlight(self._lock)
        self._next = -1
        """The span after the last fetched ones: a request for it shows a sequential reader."""
        self._ahead = 0
        """Bytes to read ahead of a sequential reader."""
        self._worthwhile = 64 << 10
        """Bytes that take about as long as a round trip."""

    def span(self, index: Spans, number: int) -> bytes:
        """Return a span as in `Spans.verified`; fetch it if it is missing, once for all concurrent readers.

        Raises:
            NotFoundError, RegistryError: It cannot be fetched.
            InvalidImageError: The registry returns other bytes.
        """
        while (data := self.verified(index, number)) is None:
            self.last_wanted = began = self._clock()
            failed = self._failed.get(number)
            if failed is not None and began - failed[0] < _FAILURE_TTL:
                raise failed[1]
            try:
                fetched = self._fetch_once(index, number, lambda: self._last_to_fetch(index, number))
            except RegistryError as error:
                if (now := self._clock()) - began > _SLOW:
                    self._failed[number] = now, error
                raise
            if fetched is not None:
                return fetched[0]
        return data

    def stream(self, start: int = 0) -> Generator[bytes, None, None]:
        """Yield the blob from `start` on as it arrives, in one request, without caching it.

        Raises as `RemoteBlob.stream`.
        """
        remote = self._opened()
        self.requests += 1
        for piece in remote.stream(start):
            self.fetched += len(piece)
            yield piece

    def run(self, index: Spans, number: int, most: int, last: int | None = None) -> tuple[int, int]:
        """Fetch a span and the missing ones after it, about `most` bytes, up to the span `last`.

        Return (bytes fetched, next span).
        """
        end = index.span_count - 1 if last is None else last
        fetched = self._fetch_once(index, number, lambda: min(self._last_within(index, number, most), end))
        if fetched is None:
            return 0, number + 1
        return sum(index.stored_range(each)[1] for each in fetched[1]), fetched[1].stop

    def fill(self, start: int, end: int) -> bytes:
        """Fetch, write and return bytes, cached or not; only the digest of the whole blob verifies them."""
        if start >= end:
            return b""
        data = self._bytes(self._opened(), start, end)
        self._write(data, start)
        return data

    def _fetch_once(self, index: Spans, number: int, choose_last: Callable[[], int]) -> tuple[bytes, range] | None:
        """Fetch spans from `number` on: return the first and all numbers; None if another thread does or did that."""
        fetched, own = self._flights.run(
            number,
            lambda: None if self.verified(index, number) is None else (b"", range(0)),
            lambda: range(number, choose_last() + 1),
            lambda numbers: self._fetch(index, numbers),
        )
        return fetched if own else None

    def verified(self, index: Spans, number: int) -> bytes | None:
        """Return a span as in `Spans.verified` if it is cached and correct."""
        offset, size = index.stored_range(number)
        return index.verified(number, self.pread(size, offset))

    def has(self, index: Spans, number: int) -> bool:
        """Whether the file has data at a span's offset; it may be wrong."""
        offset, size = index.stored_range(number)
        try:
            return size == 0 or os.lseek(self.fd, offset, os.SEEK_HOLE) >= offset + size
        except OSError:
            return False

    def _last_to_fetch(self, index: Spans, number: int) -> int:
        """Return the last span to fetch: extend over missing spans while the reader is sequential."""
        self._ahead = min(max(2 * self._ahead, self._worthwhile), 4 * self._worthwhile) if number == self._next else 0
        ahead = self._ahead + index.stored_range(number)[1]
        last = self._last_within(index, number, min(max(ahead, min(self._worthwhile, _REQUEST_MIN)), _REQUEST_MAX))
        self._next = last + 1
        return last

    def _last_within(self, index: Spans, number: int, most: int) -> int:
        """Return the last of the missing spans from `number` on that together have at most `most` bytes."""
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

    def _fetch(self, index: Spans, numbers: range) -> tuple[bytes, range]:
        """Fetch, verify and write consecutive spans; return the first, verified, and all numbers."""
        start = index.stored_range(numbers[0])[0]
        offset, size = index.stored_range(numbers[-1])
        began = self._clock()
        remote = self._opened()
        while True:
            data = self._bytes(remote, start, offset + size)
            first = self._piece(index, numbers[0], data, start)
            # The others are dropped: decoded chunks may be much larger than the stored bytes.
            if first is not None and all(self._piece(index, each, data, start) is not None for each in numbers[1:]):
                break
            if not remote.distrust():
                raise InvalidImageError(
                    f"{index.name}: the registry returns other bytes at {start}..{offset + size} "
                    "than the index of the layer states"
                )
        self._learn(len(data), self._clock() - began)
        self._write(data, start)
        return first, numbers

    def _bytes(self, remote: BlobRanges, start: int, end: int) -> bytes:
        self.requests += 1
        try:
            data = remote.pread(end - start, start)
        except NoRangesError:
            return self._fetch_whole(remote, start, end)
        self.fetched += len(data)
        return data

    def _piece(self, index: Spans, number: int, data: bytes, start: int) -> bytes | None:
        """Return the span from `data`, which begins at `start`, if its digest matches."""
        offset, size = index.stored_range(number)
        return index.verified(number, data[offset - start : offset - start + size])

    def _fetch_whole(self, remote: BlobRanges, start: int, end: int) -> bytes:
        """Fetch the whole blob once, from a registry without range requests; return a part of it."""
        position = 0
        part = bytearray()
        for piece in remote.stream():
            self._write(piece, position)
            part += piece[max(start - position, 0) : max(end - position, 0)]
            position += len(piece)
        self.fetched += position
        return bytes(part)

    def _write(self, data: bytes, offset: int) -> None:
        with contextlib.suppress(OSError):  # a full disk: the bytes are fetched again later
            view = memoryview(data)
            while view:
                written = os.pwrite(self.fd, view, offset)
                view, offset = view[written:], offset + written

    def _learn(self, size: int, seconds: float) -> None:
        """Update the estimate: small requests show the round trip, large ones the rate."""
        rate = size / max(seconds, 1e-6)
        self._worthwhile = int(min(max(self._worthwhile * 0.7 + 0.3 * rate * 0.05, 64 << 10), _REQUEST_MAX // 4))
