"""Reads of the served file: at once where nothing has to be decoded, else by threads, and then within a time.

Whoever reads a layer span after span gets the next ones decoded ahead, on all processors; somebody who jumps about
does not. It does not know what the bytes are for.
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
"""Enough that no processor waits; more would only take room in the span cache."""
_READERS = 4 * _PROCESSORS
"""Threads for those who wait, apart from those that decode ahead: a waiting one never keeps a span from its thread."""

Views = list[memoryview]


class Reading:
    """Reads of one served file, each of which takes `timeout` seconds at most."""

    def __init__(self, served: ServedFile, timeout: float) -> None:
        self.served = served
        self._timeout = timeout
        self._readers = Threads(_READERS, timeout)
        self._ahead = Threads(_PROCESSORS, timeout)
        self._last: dict[int, int] = {}
        """Layer to the span that was read last."""

    def at_hand(self, size: int, address: int) -> Views | None:
        """Return up to `size` bytes at `address` if that takes neither decoding nor a disk, else None: `fetch` does it.

        In both cases what a reader will want next begins to be decoded. To be called from one thread only.
        """
        self._decode_ahead(size, address)
        return self.served.views_at_hand(size, address)

    def fetch(self, ranges: Sequence[tuple[int, int]], answer: Callable[[list[Views] | Exception], None]) -> None:
        """Have `answer` called from a thread, once and in time, with the bytes of each (size, address), or why not.

        It gets InvalidImageError for bytes that cannot be proven, OSError when a blob cannot be read, OcifsError when
        that takes too long.
        """

        def told(result: list[Views] | Exception) -> None:
            answer(self._overdue(ranges) if isinstance(result, (Overdue, StillLoading)) else result)

        self._readers.submit(lambda: [self.served.views(size, address) for size, address in ranges], told)

    def start(self) -> None:
        """Start what every read needs, so that no limit on threads can make one wait in vain. Raises ShortageError."""
        self._readers.start()
        self._ahead.start()

    def close(self) -> None:
        """Answer nobody any more."""
        self._readers.close()
        self._ahead.close()

    def _overdue(self, ranges: Sequence[tuple[int, int]]) -> OcifsError:
        places = [self.served.layer_at(address) for _, address in ranges]
        blobs = dict.fromkeys(
            f"layer {place[0].index.summary.blob_digest}" if place else "the cache" for place in places
        )
        return OcifsError(
            f"{', '.join(blobs)}: no bytes within {self._timeout:g} s: "
            "see whether the disk that holds them answers, or allow more with --read-timeout"
        )

    def _decode_ahead(self, size: int, address: int) -> None:
        """Begin to decode what this read will come to after its first span, and what the next ones will."""
        place = self.served.layer_at(address)
        if place is None:
            return
        layer, offset = place
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
    if not layer.is_decoded(span):  # somebody may have begun meanwhile, and to wait for that is not this thread's work
        layer.will_need(span + _SPANS_AHEAD)
        layer.decode_ahead(span)


def _ignore(_: object) -> None:
    """Take no notice: whoever reads the span is told what is wrong with it."""
