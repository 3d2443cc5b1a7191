"""Background work of a daemon: fetch the missing spans of the layers, and verify published indexes.

A published index is used before it is verified. Once its whole blob is present, the index is verified. If that
succeeds, the mount is as trusted as any; if it fails, every further read fails, because it is unknown which parts of
the tree are right, and the cache gets a note, so that no other mount uses the index. The work pauses while a reader
waits for the registry, or the hot pack arrives, and is retried later when the registry is unreachable, or threads,
files or memory run out.
"""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from ocifs import file_lock
from ocifs.blobs.download import finish, is_finished
from ocifs.errors import InvalidImageError, RegistryError, shortage
from ocifs.image.rootfs import Rootfs
from ocifs.layer.layer import Layer
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.layer.verification import fetch_all, fetch_index, verify_blob, verify_index
from ocifs.layer.verified_mark import is_marked, mark_verified
from ocifs.mount.rate_limited_log import log_failure
from ocifs.pool import start

QUIET = 2.0
"""Seconds after the last time that a reader had to wait, before background work continues."""

_PROFILE_PIECE = 4 << 20
_LOOK = 2.0
"""Seconds after which to look again whether a reader waits."""
_RETRY = 30.0
_RETRY_MAX = 600.0
_NICE = 10


Report = Callable[[str | None], None]
Note = Callable[[Layer | None, str], None]
"""Called with the layer whose published index is false, or None if the published pack is, and the reason."""


class Pack(Protocol):
    """The hot pack of the layers."""

    def is_arriving(self) -> bool:
        """Whether it is being fetched, and needs the link."""

    def verify(self, pause: Callable[[int], None]) -> None:
        """Compare it, if it is in use, with the layers, which are verified. Raises InvalidImageError, RegistryError."""

    def drop(self) -> None:
        """Remove it from the cache: it may have false bytes."""


class _EndedError(Exception):
    """The mount has ended."""


class Background:
    """The background work for one rootfs, in a thread."""

    def __init__(
        self,
        layers: list[Layer],
        rate: int | None,
        report: Report,
        progress: Callable[[], None] = lambda: None,
        pack: Pack | None = None,
        note: Note = lambda layer, reason: None,
    ) -> None:
        """Fetch up to `rate` bytes per second; `report` that all is verified, or an error.

        Call `progress` after each piece, and `note` for a false index or pack.
        """
        self._layers = layers
        self._rate = rate
        self._report = report
        self._progress = progress
        self._began = time.monotonic()
        self._pack = pack
        self.retry = _RETRY
        """Seconds to wait after the first failure; twice as many after each further one."""
        self._note = note
        self._current: Layer | None = None
        """The layer that is being fetched or verified; None: the pack is."""
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
        delay = self.retry
        with contextlib.suppress(_EndedError):
            while True:
                try:
                    self._work()
                except InvalidImageError as error:
                    self._refute(error)
                    return
                except _EndedError:
                    raise
                except Exception as error:  # noqa: BLE001 - only the log can say why this thread ends
                    log_failure("prefetch", error)
                    if not isinstance(error, RegistryError) and shortage(error) is None:
                        return
                else:
                    self._report(None)
                    return
                if self._ended.wait(delay):
                    return
                delay = min(2 * delay, _RETRY_MAX)

    def _work(self) -> None:
        """Fetch and verify everything. Raises as `_work_on`."""
        for work in (self._fetch_profile, self._work_on):
            for layer in self._layers:
                self._current = layer
                work(layer)
        self._current = None
        if self._pack is not None:
            self._pack.verify(self._pause)

    def _work_on(self, layer: Layer) -> None:
        """Fetch the missing spans of a layer, and verify it. Raises what `ocifs.layer.verification` does."""
        self._pause(0)  # leave the link to the start of the program
        with self._alone(layer):
            self._verify(layer)

    @contextmanager
    def _alone(self, layer: Layer) -> Iterator[None]:
        """Wait while another process works on the blob of a layer, to do nothing twice, unless it is stuck.

        The lock is that of a process, not of an open file, which the keeper of the service shares with its workers.
        Raises _EndedError.
        """
        if not isinstance(layer.blob, LazyBlob):
            yield
            return
        with contextlib.suppress(OSError, file_lock.StuckHolderError):
            file_lock.lock(layer.blob.fd, self._raise_if_ended, of_process=True)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.lockf(layer.blob.fd, fcntl.LOCK_UN)

    def _raise_if_ended(self) -> None:
        if self._ended.is_set():
            raise _EndedError

    def _verify(self, layer: Layer) -> None:
        """Do the work, unless another process has done it meanwhile."""
        if is_marked(layer.index) and all(map(is_finished, layer.lazy)):
            layer.conclude()
            return
        if (index := fetch_index(layer.index, self._pause)) is not None:  # first: it is small, and reads need all of it
            finish(index)
        fetch_all(layer, self._pause)
        unverified = not layer.verification.is_verified
        if isinstance(layer.blob, LazyBlob) or unverified:
            verify_blob(layer, self._pause)
        if unverified:
            if verify_index(layer, self._pause):
                mark_verified(layer.index)
            layer.conclude()
        if isinstance(layer.blob, LazyBlob):
            finish(layer.blob)

    def _refute(self, error: InvalidImageError) -> None:
        """Make every read fail: the tree was merged from all indexes together."""
        for layer in self._layers:
            layer.conclude(f"the mount is refuted: {error}")
        log_failure("prefetch", error)
        self._note(self._current, str(error))
        if self._pack is not None:
            self._pack.drop()
        self._report(str(error))

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

    def _pause(self, size: int) -> None:
        """Wait while a reader waits, and as long as `size` bytes take at the rate. Raises _EndedError."""
        self._progress()
        until = time.monotonic() + (size / self._rate if self._rate else 0)
        while (left := max(until, self._last_wait() + QUIET) - time.monotonic()) > 0:
            if self._ended.wait(min(left, _LOOK)):
                raise _EndedError
        self._raise_if_ended()

    def _last_wait(self) -> float:
        if self._pack is not None and self._pack.is_arriving():
            return time.monotonic()
        waits = [file.last_wanted for layer in self._layers for file in layer.partial]
        return max([self._began, *waits])


def is_unfinished(rootfs: Rootfs) -> bool:
    """Whether spans are missing, or an index is unverified, and so may be the hot pack."""
    return any(not layer.verification.is_verified or layer.partial for layer in rootfs.served.layers)


@contextmanager
def in_background(
    rootfs: Rootfs,
    rate: int | None,
    report: Report,
    progress: Callable[[], None] = lambda: None,
    pack: Pack | None = None,
    note: Note = lambda layer, reason: None,
) -> Iterator[None]:
    """Run the background work of a rootfs, if there is any, while the context lasts."""
    opened = rootfs.served.pack
    if not is_unfinished(rootfs) and (opened is None or opened.verified):
        yield
        return
    background = Background(list(rootfs.served.layers), rate, report, progress, pack, note)
    background.start()
    try:
        yield
    finally:
        background.stop()
