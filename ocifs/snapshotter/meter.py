"""Count the requests of a snapshotter for the metrics."""

import bisect
import contextlib
import logging
import os
import threading
from collections import Counter
from typing import Final

from ocifs.errors import OcifsError
from ocifs.mount.record import runtime_directory
from ocifs.service.snapshotter_numbers import (
    BOUNDS,
    MethodNumbers,
    SnapshotterNumbers,
    began,
    remove_numbers,
    write_numbers,
)
from ocifs.snapshotter.snapshots import Snapshots

_PAUSE: Final = 1.0
"""Least seconds between two writes."""
_log = logging.getLogger(__name__)


class _Method:
    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0


class Meter:
    """Counts, and writes the counts for the exporter. Safe for several threads."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots
        self._lock = threading.Lock()
        self._methods: dict[str, _Method] = {}
        self._refuted = 0
        self._changed = threading.Event()

    def observe(self, method: str, status: str, seconds: float) -> None:
        """Count a request (`ocifs.snapshotter.server.Observe`)."""
        with self._lock:
            counted = self._methods.setdefault(method, _Method())
            counted.statuses[status] += 1
            counted.buckets[bisect.bisect_left(BOUNDS, seconds)] += 1
            counted.seconds += seconds
        self._changed.set()

    def observe_refuted(self) -> None:
        """Count an image that was refuted."""
        with self._lock:
            self._refuted += 1
        self._changed.set()

    def numbers(self) -> SnapshotterNumbers:
        """Return the numbers so far. Raises SnapshotError."""
        kinds: Counter[str] = Counter(active=0, view=0, committed=0, remote=0)
        kinds.update("remote" if each.chain else each.kind for each in self._snapshots.metadata.all())
        with self._lock:
            methods = {
                name: MethodNumbers(statuses=dict(each.statuses), buckets=tuple(each.buckets), seconds=each.seconds)
                for name, each in self._methods.items()
            }
        pid = os.getpid()
        return SnapshotterNumbers(
            pid=pid,
            began=began(pid),
            snapshots=dict(kinds),
            images=len(self._snapshots.images.mounted()),
            methods=methods,
            refuted=self._refuted,
        )

    def run(self, stop: threading.Event) -> None:
        """Write the numbers after requests, until `stop`; then remove them."""
        runtime = runtime_directory()
        self._changed.set()
        while not stop.is_set():
            if self._changed.wait(_PAUSE * 30):
                self._changed.clear()
                try:
                    write_numbers(runtime, self.numbers())
                except (OSError, OcifsError, MemoryError) as error:
                    _log.warning("no metrics: %s", error)
            stop.wait(_PAUSE)
        with contextlib.suppress(OcifsError):
            remove_numbers(runtime)
