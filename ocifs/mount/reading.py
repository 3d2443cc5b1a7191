"""Read the served file: at once if nothing has to be decoded, else in worker threads with a time limit.

While a reader is sequential in a layer, the next spans are decoded ahead, on all processors. This module does not know
what the bytes are for.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial

from ocifs.errors import OcifsError
from ocifs.image.served_file import ServedFile
from ocifs.layer.layer import Layer
from ocifs.layer.single_flight import StillLoading
from ocifs.mount.threads import Overdue, Threads

_PROCESSORS = os.cpu_count() or 1
_SPANS_AHEAD = min(2 * _PROCESSORS, 16)
"""Enough to keep every processor busy; more would only fill the span cache."""
_READERS = 4 * _PROCESSORS
"""Threads for reads, apart from those that decode ahead: a waiting read never takes the thread that its span needs."""

Views = list[memoryview]


class Reading:
    """Reads of one served file, each limited to `timeout` seconds."""

    def __init__(self, served: ServedFile, timeout: float) -> None:
        self.served = served
        self._timeout = timeout
        self._readers = Threads(_READERS, timeout)
        self._ahead = Threads(_PROCESSORS, timeout)
        self._last: dict[int, int] = {}
        """For each layer, the span that was read last."""

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

        def answer_in_time(result: list[Views] | Exception) -> None:
            answer(self._overdue(ranges) if isinstance(result, (Overdue, StillLoading)) else result)

        self._readers.submit(lambda: [self.served.views(size, address) for size, address in ranges], answer_in_time)

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
        before = self._last.get(layer.number)
        if first == last == before:
            return
        self._last[layer.number] = last
        is_sequential = before is not None and first - 1 <= before < last
        for span in range(first + 1, last + 1 + (_SPANS_AHEAD if is_sequential else 0)):
            if not layer.is_decoded(span):
                self._ahead.submit(partial(_decode, layer, span), _ignore)


def _decode(layer: Layer, span: int) -> None:
    if not layer.is_decoded(span):  # a thread of the readers may have begun, and this one must not wait for it
        layer.will_need(span + _SPANS_AHEAD)
        layer.decode_ahead(span)


def _ignore(_: object) -> None:
    """Ignore the result: a reader of the span gets the error."""
