"""Background work of a daemon: fetch the missing spans of the layers, and verify published indexes.

A published index is used before it is verified. Once its whole blob is present, the index is verified. If that
succeeds, the mount is as trusted as any; if it fails, every further read fails, because it is unknown which parts of
the tree are right. The work pauses while a reader waits for the registry, and is retried later when the registry is
unreachable.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from ocifs.blobs.download import BLOB
from ocifs.errors import InvalidImageError, RegistryError
from ocifs.image.rootfs import Rootfs
from ocifs.layer.layer import Layer
from ocifs.layer.lazy_blob import PROFILE_QUIET, LazyBlob
from ocifs.layer.profile import Profile, run_of
from ocifs.layer.verification import fetch_all, mark_verified, verify_blob, verify_index
from ocifs.mount.rate_limited_log import log_failure
from ocifs.pool import start
from ocifs.store.sparse import finish_sparse

QUIET = 2.0
"""Seconds after the last time that a reader had to wait, before background work continues."""

_GAP = 1
_PROFILE_PIECE = 4 << 20
_RETRY = 30.0
_RETRY_MAX = 600.0
_NICE = 10


Report = Callable[[str | None, Profile | None], None]


class _EndedError(Exception):
    """The mount has ended."""


class Background:
    """The background work for one rootfs, in a thread."""

    def __init__(self, layers: list[Layer], rate: int | None, report: Report) -> None:
        """Fetch up to `rate` bytes per second; `report` that all is verified, an error, or the profile."""
        self._layers = layers
        self._rate = rate
        self._report = report
        self._began = time.monotonic()
        self._profile: Profile | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        """Start. Raises ShortageError if the system refuses a thread."""
        start(self._run)

    def stop(self) -> None:
        """Stop after the current request, without waiting for it."""
        self._ended.set()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        delay = _RETRY
        with contextlib.suppress(_EndedError):
            while True:
                try:
                    for layer in self._layers:
                        self._fetch_profile(layer)
                    for layer in self._layers:
                        self._work_on(layer)
                except InvalidImageError as error:
                    self._refute(error)
                    return
                except RegistryError as error:
                    log_failure("prefetch", error)
                except _EndedError:
                    raise
                except Exception as error:  # noqa: BLE001 - only the log can say why this thread ends
                    log_failure("prefetch", error)
                    return
                else:
                    self._report(None, self._profile)
                    self._await_profile()
                    return
                if self._ended.wait(delay):
                    return
                delay = min(2 * delay, _RETRY_MAX)

    def _work_on(self, layer: Layer) -> None:
        """Fetch the missing spans of a layer, and verify it. Raises what `ocifs.layer.verification` does."""
        fetch_all(layer, self._pause)
        unverified = not layer.verification.is_verified
        if isinstance(layer.blob, LazyBlob) or unverified:
            verify_blob(layer, self._pause)
        if unverified:
            if verify_index(layer, self._pause):
                mark_verified(layer)
            layer.conclude()
        if isinstance(layer.blob, LazyBlob):
            finish_sparse(layer.blob.fd, BLOB, layer.index.summary.blob_digest, layer.blob.size)

    def _refute(self, error: InvalidImageError) -> None:
        """Make every read fail: the tree was merged from all indexes together."""
        for layer in self._layers:
            layer.conclude(f"the mount is refuted: {error}")
        log_failure("prefetch", error)
        self._report(str(error), self._profile)

    def _fetch_profile(self, layer: Layer) -> None:
        """Fetch the spans of the start-up profile first, even while readers wait. Raises as `_work_on`."""
        blob = layer.blob
        if not isinstance(blob, LazyBlob):
            return
        for first, last in layer.prefetch:
            number = first
            while number <= last and not self._ended.is_set():
                fetched = 0
                if blob.has(layer.index, number):
                    number += 1
                else:
                    fetched, number = blob.run(layer.index, number, _PROFILE_PIECE, last)
                if self._rate and self._ended.wait(fetched / self._rate):
                    raise _EndedError

    def _await_profile(self) -> None:
        while self._profile is None and not self._ended.wait(PROFILE_QUIET):
            self._note_profile()

    def _note_profile(self) -> None:
        """Report the profile, once readers have paused."""
        lazy = [(each.index, each.blob) for each in self._layers if isinstance(each.blob, LazyBlob)]
        last = max((blob.last_touched for _, blob in lazy), default=0.0)
        touched = {
            index.summary.blob_digest: tuple(run_of(index, *spans) for spans in _ranges(blob.touched))
            for index, blob in lazy
            if blob.touched
        }
        if self._profile is None and touched and time.monotonic() - last > PROFILE_QUIET:
            self._profile = touched
            self._report(None, touched)

    def _pause(self, size: int) -> None:
        """Wait while a reader waits, and as long as `size` bytes take at the rate. Raises _EndedError."""
        until = time.monotonic() + (size / self._rate if self._rate else 0)
        while (left := max(until, self._last_wait() + QUIET) - time.monotonic()) > 0:
            if self._ended.wait(min(left, PROFILE_QUIET)):
                raise _EndedError
            self._note_profile()
        if self._ended.is_set():
            raise _EndedError

    def _last_wait(self) -> float:
        waits = [each.blob.last_wanted for each in self._layers if isinstance(each.blob, LazyBlob)]
        return max([self._began, *waits])


def _ranges(spans: Iterable[int]) -> list[tuple[int, int]]:
    """Join spans whose gap costs less to fetch than a round trip; order the ranges by their first use."""
    order = {number: position for position, number in enumerate(spans)}
    ranges: list[list[int]] = []
    for number in sorted(order):
        if ranges and number - ranges[-1][1] <= _GAP + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    first_use = {first: min(order.get(n, len(order)) for n in range(first, last + 1)) for first, last in ranges}
    return sorted(((first, last) for first, last in ranges), key=lambda each: first_use[each[0]])


def is_unfinished(rootfs: Rootfs) -> bool:
    """Whether spans are missing or an index is unverified."""
    return any(not layer.verification.is_verified or isinstance(layer.blob, LazyBlob) for layer in rootfs.served.layers)


@contextmanager
def in_background(rootfs: Rootfs, rate: int | None, report: Report) -> Iterator[None]:
    """Run the background work of a rootfs, if there is any, while the context lasts."""
    if not is_unfinished(rootfs):
        yield
        return
    background = Background(list(rootfs.served.layers), rate, report)
    background.start()
    try:
        yield
    finally:
        background.stop()
