"""Read the served file: at once if nothing has to be decoded, else in worker threads with a time limit.

While a reader is sequential in a layer, the next spans are decoded ahead, on all processors. This module does not know
what the bytes are for.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from ocifs.errors import OcifsError
from ocifs.image.served_file import ServedFile
from ocifs.layer.layer import Layer
from ocifs.layer.single_flight import StillLoading
from ocifs.mount.idle import has_idle_processor
from ocifs.mount.threads import Overdue, Threads

_PROCESSORS = os.cpu_count() or 1
_RUN = 1 << 20
"""Bytes decoded in one go for a sequential reader: each span costs less then, and each processor has its run."""
_AHEAD = min(2 * _PROCESSORS, 16) * _RUN
"""Bytes decoded ahead of a sequential reader: enough to keep every processor busy; more would only fill the span cache.
"""
_REACH_MIN = 256 << 10
"""Bytes decoded ahead at first: most readers that cross the border of a span once are not sequential."""
_READ_AHEAD_MIN = 32 << 10
"""Smallest read, in bytes, of which the next span may be decoded: the kernel reads ahead itself, so not at random."""
_READERS = 4 * _PROCESSORS
"""Threads for reads, apart from those that decode ahead: a waiting read never takes the thread that its span needs."""

Views = list[memoryview]


class _Position(NamedTuple):
    """Where the last read of a layer was."""

    span: int
    ahead: int
    """The span after the last one that is decoded ahead."""
    reach: int
    """Bytes decoded ahead: they double while the reader is sequential."""


_NOWHERE = _Position(-2, 0, 0)


class Reading:
    """Reads of one served file, each limited to `timeout` seconds."""

    def __init__(self, served: ServedFile, timeout: float, is_idle: Callable[[], bool] = has_idle_processor) -> None:
        """`is_idle`: whether a processor is idle, and may decode spans that might be read."""
        self.served = served
        self._is_idle = is_idle
        self._timeout = timeout
        self._readers = Threads(_READERS, timeout)
        self._ahead = Threads(_PROCESSORS, timeout)
        self._last: dict[int, _Position] = {}
        """Of each layer."""

    def at_hand(self, size: int, address: int) -> Views | None:
        """Return up to `size` bytes at `address`, or None if that takes decoding or a disk: then call `fetch`.

        In both cases, start decoding what the reader will need next. Call this from one thread only.
        """
        is_hot = self.served.is_hot(size, address)
        if self.served.recording is not None and not is_hot:
            self.served.recording.note(size, address)
        if is_hot is False:
            self._decode_ahead(size, address)
        return self.served.views_at_hand(size, address)

    def fetch(self, ranges: Sequence[tuple[int, int]], answer: Callable[[list[Views] | Exception], None]) -> None:
        """Call `answer` from a thread, once and in time, with the bytes of each (size, address), or with an error.

        The errors: InvalidImageError for bytes that fail verification, OSError if a blob cannot be read, OcifsError
        after the time limit.
        """
        recording = self.served.recording
        if recording is not None:
            recording.begin_wait()

        def answer_in_time(result: list[Views] | Exception) -> None:
            if recording is not None:
                recording.end_wait()
            answer(self._overdue(ranges) if isinstance(result, (Overdue, StillLoading)) else result)

        self._readers.submit(lambda: [self.served.views(size, address) for size, address in ranges], answer_in_time)

    def is_busy(self) -> bool:
        """Whether something is being read or decoded."""
        return self._readers.is_busy() or self._ahead.is_busy()

    def start(self) -> None:
        """Start the threads that every read needs, so that later limits cannot block one. Raises ShortageError."""
        self._readers.start()
        self._ahead.start()

    def close(self) -> None:
        """Stop; nothing is answered any more."""
        self._readers.close()
        self._ahead.close()

    def _overdue(self, ranges: Sequence[tuple[int, int]]) -> OcifsError:
        locations = [self.served.layer_at(address) for _, address in ranges]
        blobs = dict.fromkeys(
            f"layer {found[0].index.summary.blob_digest}" if found else "the cache" for found in locations
        )
        return OcifsError(
            f"{', '.join(blobs)}: no bytes within {self._timeout:g} s: "
            "check the disk that holds them, or raise --read-timeout"
        )

    def _decode_ahead(self, size: int, address: int) -> None:
        """Start decoding the further spans of this read; for a sequential reader, also those of the next reads."""
        found = self.served.layer_at(address)
        if found is None:
            return
        layer, offset = found
        first = layer.span_at(offset)
        last = layer.span_at(min(offset + max(size, 1), layer.size) - 1)
        before = self._last.get(layer.number, _NOWHERE)
        if first == last == before.span:
            return
        starts = layer.index.starts
        begin, end, reach = first + 1, last + 1, 0
        if size >= _READ_AHEAD_MIN and not first - 1 <= before.span < last and layer.is_here(end) and self._is_idle():
            reach, end = 1, end + 1
        if first - 1 <= before.span < last:
            reach = min(max(2 * before.reach, _REACH_MIN), _AHEAD)
            if reach > _REACH_MIN or layer.is_here(end):  # fetching costs more than decoding
                end = layer.span_at(min(starts[end] + reach, layer.size) - 1) + 1
            if begin < before.ahead:  # then the next run can wait until it is worth a thread
                begin = before.ahead
                if end < layer.index.span_count and starts[end] - starts[begin] < min(reach, _RUN):
                    end = begin
        self._last[layer.number] = _Position(last, max(begin, end), reach)
        for run in layer.runs(begin, end):
            self._ahead.submit(partial(_decode, layer, *run), _ignore)


def _decode(layer: Layer, first: int, last: int) -> None:
    ahead = (last + 1 - first) * _AHEAD // _RUN
    for span in range(first, last + 1):
        layer.will_need(span + ahead)
    layer.decode_ahead(first, last)


def _ignore(_: object) -> None:
    """Ignore the result: a reader of the span gets the error."""
