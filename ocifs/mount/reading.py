"""Reads of the served file for an event loop: at once where nothing has to be decoded, else in a thread.

Whoever reads a layer span after span gets the next ones decoded ahead, on all processors; somebody who jumps about
does not. It does not know what the bytes are for.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import trio

from ocifs.image.served import ServedFile
from ocifs.layer.layer import Layer

_PROCESSORS = os.cpu_count() or 1
SPANS_AHEAD = min(max(2, _PROCESSORS), 16)
"""As many as can be decoded at a time; more would only take room in the span cache."""


class Reading:
    """Reads of one served file."""

    def __init__(self, served: ServedFile) -> None:
        self.served = served
        # Apart, so that readers who wait for a span that is being decoded ahead never keep it from a thread.
        self._readers = trio.CapacityLimiter(4 * _PROCESSORS)
        self._ahead = ThreadPoolExecutor(_PROCESSORS)
        self._last: dict[int, int] = {}
        """Layer to the span that was read last."""

    async def read(self, size: int, address: int) -> bytes:
        """Return up to `size` bytes at `address`. Raises what `ServedFile.pread` does."""
        self._look_ahead(address + max(size - 1, 0))
        data = self.served.peek(size, address)
        if data is None:
            data = await trio.to_thread.run_sync(self.served.pread, size, address, limiter=self._readers)
        return data

    def _look_ahead(self, address: int) -> None:
        place = self.served.layer_at(address)
        if place is None:
            return
        layer, offset = place
        span = layer.span_at(offset)
        last = self._last.get(layer.number)
        if span == last:
            return
        self._last[layer.number] = span
        if last is not None and span == last + 1:
            for ahead in range(span + 1, span + 1 + SPANS_AHEAD):
                if not layer.is_decoded(ahead):
                    # Not by way of trio, since nobody waits; whoever reads the span is told what is wrong with it.
                    self._ahead.submit(_decode, layer, ahead)


def _decode(layer: Layer, span: int) -> None:
    layer.will_need(span + SPANS_AHEAD)
    layer.decode(span)
