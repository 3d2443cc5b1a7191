"""The counters of a mount, in a page that survives the process which counts.

The keeper makes the page, a small file in the runtime directory, and the worker maps it. One process writes at a time,
so a lock between its threads suffices. Any other process of the same user may read. This module does not know who
shows the numbers.
"""

import mmap
import os
import threading
from bisect import bisect_left
from collections.abc import Callable
from typing import Final, Self

import msgspec

from ocifs.errors import InvalidImageError, OcifsError, RegistryError

SIZE: Final = 4096
_MAGIC: Final = b"ocifs-c1"

STARTING, MOUNTED, ENDED, FAILED, DEAD = range(5)
"""States: being mounted; served; unmounted; not mounted, and the client knows why; given up."""

AWAKE, IDLE, DORMANT = range(3)
"""Activity of the process that serves the mount: it has loaded the image; it has, but nothing was requested for a
while; it loads the image at the next request."""

BUCKETS: Final = (0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)
"""Upper bounds of the latency histogram, in seconds; a last bucket has the rest."""
CAUSES: Final = ("verification", "registry", "timeout", "disk", "defect")
"""Causes of failed reads."""

(
    _STATE,
    _ATTACHING,
    _RESTARTS,
    _READS,
    _BYTES,
    _HITS,
    _SPANS,
    _FETCHED,
    _MICROSECONDS,
    _BACKGROUND_DONE,
    _BACKGROUND_TOTAL,
    _VERIFIED,
    _BUCKET,
) = range(13)
_ERROR: Final = _BUCKET + len(BUCKETS) + 1
_TAKEN: Final = _ERROR + len(CAUSES)
_ACTIVITY: Final = _TAKEN + 1
_UNREAD: Final = _ACTIVITY + 1


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """The values of the counters at one time."""

    restarts: int
    """How often the process that serves the mount was replaced after it died."""
    reads: int
    """Reads that the kernel requested."""
    read_bytes: int
    """Bytes in the answers."""
    cache_hits: int
    """Reads answered from decoded spans and the tree image, without decoding."""
    spans_decoded: int
    spans_taken: int
    """Spans that another mount had decoded."""
    bytes_fetched: int
    """Bytes fetched from a registry."""
    read_seconds: float
    """Sum of the times from request to answer."""
    latency: tuple[int, ...]
    """Reads in each bucket of `BUCKETS`, and slower ones."""
    errors: dict[str, int]
    """Failed reads by cause."""
    background_done: int
    """Bytes of the lazy layers that are in the cache."""
    background_total: int
    """Bytes of the lazy layers."""
    layers_verified: int


class Counters:
    """The counters over a page. Thread-safe."""

    def __init__(self, page: mmap.mmap) -> None:
        self._page = page
        self._words = memoryview(page)[8:].cast("Q")
        self._lock = threading.Lock()
        self._work: Callable[[], tuple[int, int, int]] = lambda: (0, 0, 0)
        self._noted = (0, 0, 0)

    @classmethod
    def private(cls) -> Self:
        """Return counters that end with this process."""
        return cls(mmap.mmap(-1, SIZE))

    @classmethod
    def make(cls, fd: int) -> Self:
        """Initialise an open, empty file. Raises OSError, also if the disk is full."""
        os.posix_fallocate(fd, 0, SIZE)  # writing to a hole of a full disk would be a SIGBUS
        os.pwrite(fd, _MAGIC, 0)
        return cls.open(fd)

    @classmethod
    def open(cls, fd: int) -> Self:
        """Map an open file. Raises OSError, ValueError if it is not one of `make`."""
        if os.fstat(fd).st_size != SIZE or os.pread(fd, len(_MAGIC), 0) != _MAGIC:
            raise ValueError("not a page of counters")
        return cls(mmap.mmap(fd, SIZE))

    @property
    def state(self) -> int:
        """One of the states."""
        return self._words[_STATE]

    @state.setter
    def state(self, state: int) -> None:
        self._words[_STATE] = state

    @property
    def attaching(self) -> int:
        """Device number of the file system that the worker is about to attach; 0: none."""
        return self._words[_ATTACHING]

    @attaching.setter
    def attaching(self, device: int) -> None:
        self._words[_ATTACHING] = device

    @property
    def activity(self) -> int:
        """One of the activities."""
        return self._words[_ACTIVITY]

    @activity.setter
    def activity(self, activity: int) -> None:
        self._words[_ACTIVITY] = activity

    @property
    def is_unread(self) -> bool:
        """Whether no byte of a layer was requested before the process became idle."""
        return bool(self._words[_UNREAD])

    @is_unread.setter
    def is_unread(self, unread: bool) -> None:
        self._words[_UNREAD] = unread

    @property
    def restarts(self) -> int:
        """How often the worker was replaced after it died."""
        return self._words[_RESTARTS]

    def note_restart(self) -> None:
        """Count a replaced worker."""
        self._words[_RESTARTS] += 1

    def note_read(self, seconds: float, size: int, *, hit: bool) -> None:
        """Count an answered read."""
        with self._lock:
            self._count_read(seconds)
            self._words[_BYTES] += size
            self._words[_HITS] += hit
        if not hit:
            self.note_work()

    def note_error(self, seconds: float, error: Exception) -> None:
        """Count a failed read."""
        with self._lock:
            self._count_read(seconds)
            self._words[_ERROR + CAUSES.index(_cause(error))] += 1

    def follow(self, work: Callable[[], tuple[int, int, int]]) -> None:
        """Add the results of `work` from now on: spans decoded and taken, and bytes fetched, by this process."""
        self._work = work

    def note_work(self) -> None:
        """Count the spans decoded and taken, and the bytes fetched, since the last call."""
        with self._lock:
            counts = self._work()
            for word, now, before in zip((_SPANS, _TAKEN, _FETCHED), counts, self._noted, strict=True):
                self._words[word] += now - before
            self._noted = counts

    def note_progress(self, done: int, total: int, verified: int) -> None:
        """Set the progress of background work in bytes, and the number of verified layers."""
        with self._lock:
            self._words[_BACKGROUND_DONE], self._words[_BACKGROUND_TOTAL] = done, total
            self._words[_VERIFIED] = verified

    def read(self) -> Numbers:
        """Return the current values."""
        words = self._words
        errors = words[_ERROR : _ERROR + len(CAUSES)]
        return Numbers(
            restarts=words[_RESTARTS],
            reads=words[_READS],
            read_bytes=words[_BYTES],
            cache_hits=words[_HITS],
            spans_decoded=words[_SPANS],
            spans_taken=words[_TAKEN],
            bytes_fetched=words[_FETCHED],
            read_seconds=words[_MICROSECONDS] / 1e6,
            latency=tuple(words[_BUCKET : _BUCKET + len(BUCKETS) + 1]),
            errors=dict(zip(CAUSES, errors, strict=True)),
            background_done=words[_BACKGROUND_DONE],
            background_total=words[_BACKGROUND_TOTAL],
            layers_verified=words[_VERIFIED],
        )

    def close(self) -> None:
        """Unmap the page."""
        self._words.release()
        self._page.close()

    def _count_read(self, seconds: float) -> None:
        self._words[_READS] += 1
        self._words[_MICROSECONDS] += int(seconds * 1e6)
        self._words[_BUCKET + bisect_left(BUCKETS, seconds)] += 1


def _cause(error: Exception) -> str:
    if isinstance(error, InvalidImageError):
        return "verification"
    if isinstance(error, (RegistryError, LookupError)):
        return "registry"
    if isinstance(error, OcifsError):
        return "timeout"
    return "disk" if isinstance(error, OSError) else "defect"
