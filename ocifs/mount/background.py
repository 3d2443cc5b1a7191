"""What a daemon does while nobody wants anything: it fetches what is missing of the layers, and proves what is claimed.

A layer whose index was published is used before it is proven. When all of its blob is here, that is made good: if the
index told the truth the mount is as trusted as any, and if not nothing more is read from it, because nothing tells
which parts of the tree are true. It waits whenever a reader has to wait for the registry, and when that cannot be
reached it comes back later.
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
from ocifs.mount.rate_limited_log import complain
from ocifs.pool import start
from ocifs.store import finish_sparse

QUIET = 2.0
"""Seconds since a reader last had to wait, before anything is done in the background."""

_GAP = 1
_PROFILE_PIECE = 4 << 20
_AGAIN = 30.0
_AGAIN_MOST = 600.0
_NICE = 10


Tell = Callable[[str | None, Profile | None], None]


class _EndedError(Exception):
    """The mount ends."""


class Background:
    """The work on one rootfs, in a thread."""

    def __init__(self, layers: list[Layer], rate: int | None, tell: Tell) -> None:
        """Take `rate` bytes a second at most; `tell` when all is proven, with what is wrong, or with the profile."""
        self._layers = layers
        self._rate = rate
        self._tell = tell
        self._began = time.monotonic()
        self._profile: Profile | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)

    def start(self) -> None:
        """Begin. Raises ShortageError where the system gives no thread."""
        start(self._thread)

    def stop(self) -> None:
        """End, as soon as no request is under way: that is not waited for."""
        self._ended.set()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        again = _AGAIN
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
                    complain("prefetch", error)
                except _EndedError:
                    raise
                except Exception as error:  # noqa: BLE001 - only the log can say why this thread ends
                    complain("prefetch", error)
                    return
                else:
                    self._tell(None, self._profile)
                    self._await_profile()
                    return
                if self._ended.wait(again):
                    return
                again = min(2 * again, _AGAIN_MOST)

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
        """Let nothing be read any more: the tree was made of what all indexes say together."""
        for layer in self._layers:
            layer.conclude(f"the mount is refuted: {error}")
        complain("prefetch", error)
        self._tell(str(error), self._profile)

    def _fetch_profile(self, layer: Layer) -> None:
        """Fetch at once what somebody who starts will want; readers come to it meanwhile. Raises as `_work_on`."""
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
        """Tell the profile, once readers have paused."""
        lazy = [(each.index, each.blob) for each in self._layers if isinstance(each.blob, LazyBlob)]
        last = max((blob.last_touched for _, blob in lazy), default=0.0)
        touched = {
            index.summary.blob_digest: tuple(run_of(index, *spans) for spans in _ranges(blob.touched))
            for index, blob in lazy
            if blob.touched
        }
        if self._profile is None and touched and time.monotonic() - last > PROFILE_QUIET:
            self._profile = touched
            self._tell(None, touched)

    def _pause(self, size: int) -> None:
        """Wait while a reader has to, and as the rate has it for `size` bytes. Raises _EndedError."""
        until = time.monotonic() + (size / self._rate if self._rate else 0)
        while (left := max(until, self._last_wanted() + QUIET) - time.monotonic()) > 0:
            if self._ended.wait(min(left, PROFILE_QUIET)):
                raise _EndedError
            self._note_profile()
        if self._ended.is_set():
            raise _EndedError

    def _last_wanted(self) -> float:
        wanted = [each.blob.last_wanted for each in self._layers if isinstance(each.blob, LazyBlob)]
        return max([self._began, *wanted])


def _ranges(spans: Iterable[int]) -> list[tuple[int, int]]:
    """Join spans that are no further from each other than a round trip is worth; those wanted first come first."""
    order = {number: place for place, number in enumerate(spans)}
    ranges: list[list[int]] = []
    for number in sorted(order):
        if ranges and number - ranges[-1][1] <= _GAP + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    first_wanted = {first: min(order.get(n, len(order)) for n in range(first, last + 1)) for first, last in ranges}
    return sorted(((first, last) for first, last in ranges), key=lambda each: first_wanted[each[0]])


@contextmanager
def in_background(rootfs: Rootfs, rate: int | None, tell: Tell) -> Iterator[None]:
    """Do what there is to do beside the serving of a rootfs."""
    layers = list(rootfs.served.layers)
    if not any(not layer.verification.is_verified or isinstance(layer.blob, LazyBlob) for layer in layers):
        yield
        return
    background = Background(layers, rate, tell)
    background.start()
    try:
        yield
    finally:
        background.stop()
