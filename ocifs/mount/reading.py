"""Reads of the served file for an event loop: at once where nothing has to be decoded, else in a thread.

Whoever reads a layer span after span gets the next ones decoded ahead, on all processors; somebody who jumps about
does not. It does not know what the bytes are for.
"""

import contextlib
import os

import trio

from ocifs.errors import OcifsError
from ocifs.image.served import ServedFile
from ocifs.layer.layer import Layer

SPANS_AHEAD = 2


class Reading:
    """Reads of one served file."""

    def __init__(self, served: ServedFile) -> None:
        self.served = served
        processors = os.cpu_count() or 1
        # Apart, so that readers who wait for a span that is being decoded ahead never keep it from a thread.
        self._readers = trio.CapacityLimiter(4 * processors)
        self._decoders = trio.CapacityLimiter(processors)
        self._last: dict[int, int] = {}
        """Layer to the span that was read last."""

    async def read(self, size: int, address: int) -> bytes:
        """Return up to `size` bytes at `address`. Raises what `ServedFile.pread` does."""
        data = self.served.peek(size, address)
        if data is None:
            data = await trio.to_thread.run_sync(self.served.pread, size, address, limiter=self._readers)
        self._look_ahead(address + max(size - 1, 0))
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
                    trio.lowlevel.spawn_system_task(self._decode, layer, ahead)

    async def _decode(self, layer: Layer, span: int) -> None:
        # Whoever reads the span will be told what is wrong with it.
        with contextlib.suppress(OcifsError, OSError):
            await trio.to_thread.run_sync(layer.decode, span, limiter=self._decoders)
