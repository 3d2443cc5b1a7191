"""Reads of the served file: at once where nothing has to be decoded, else by whatever thread is given for it.

Whoever reads a layer span after span gets the next ones decoded ahead, on all processors; somebody who jumps about
does not. It does not know what the bytes are for.
"""

import os
from concurrent.futures import ThreadPoolExecutor

from ocifs.image.served import ServedFile
from ocifs.layer.layer import Layer

_PROCESSORS = os.cpu_count() or 1
SPANS_AHEAD = min(2 * _PROCESSORS, 16)
"""Enough that no processor waits; more would only take room in the span cache."""
READERS = 4 * _PROCESSORS
"""Threads for those who wait, apart from those that decode ahead: a waiting one never keeps a span from its thread."""


class Reading:
    """Reads of one served file."""

    def __init__(self, served: ServedFile) -> None:
        self.served = served
        self.views = served.views
        self._ahead = ThreadPoolExecutor(_PROCESSORS)
        self._last: dict[int, int] = {}
        """Layer to the span that was read last."""

    def at_hand(self, size: int, address: int) -> list[memoryview] | None:
        """Return up to `size` bytes at `address` if that needs no decoding, else None: `views` gives them.

        In both cases what a reader will want next begins to be decoded. To be called from one thread only.
        """
        self._decode_ahead(size, address)
        return self.served.views_at_hand(size, address)

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
        for span in range(first + 1, last + 1 + (SPANS_AHEAD if is_sequential else 0)):
            if not layer.is_decoded(span):
                # Nobody waits for the outcome; whoever reads the span is told what is wrong with it.
                self._ahead.submit(_decode, layer, span)


def _decode(layer: Layer, span: int) -> None:
    if not layer.is_decoded(span):  # somebody may have begun meanwhile, and to wait for that is not this thread's work
        layer.will_need(span + SPANS_AHEAD)
        layer.decode(span)
