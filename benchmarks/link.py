"""A slow link on loopback: relays connections to a port with the rate and the round-trip time of a link.

All connections share the rate, in each direction. Opening a connection takes a round trip, as on a real link. The link
counts the bytes that it carries, and the requests of plain HTTP/1.1.
"""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

_PIECE = 16 << 10
_REQUEST = b" HTTP/1.1\r\n"
"""The end of the first line of a request; an answer begins with its version."""


class Traffic(NamedTuple):
    """What a link has carried so far, or between two times."""

    received: int
    """Bytes from the target."""
    requests: int


class _Direction:
    """One direction of the link: bytes leave in order, and arrive later."""

    def __init__(self, rate: float, delay: float) -> None:
        self._rate = rate
        self._delay = delay
        self._free = 0.0
        self.carried = 0
        self.requests = 0

    def arrival(self, size: int) -> float:
        """Return the time when `size` bytes that are sent now arrive."""
        self._free = max(self._free, time.monotonic()) + size / self._rate
        self.carried += size
        return self._free + self._delay


class Link:
    """Connect to `port`; `rate` is in bytes a second, `round_trip` in seconds."""

    def __init__(self, target: int, rate: float, round_trip: float) -> None:
        self.port = 0
        self._target = target
        self._round_trip = round_trip
        self._up = _Direction(rate, round_trip / 2)
        self._down = _Direction(rate, round_trip / 2)

    @property
    def received(self) -> int:
        """Bytes received from the target."""
        return self._down.carried

    def traffic(self, since: Traffic | None = None) -> Traffic:
        """Return what the link has carried, or has carried since then."""
        received, requests = since or (0, 0)
        return Traffic(self._down.carried - received, self._up.requests - requests)

    async def _serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self._round_trip)
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(self._carry(reader, there_writer, self._up), self._carry(there_reader, writer, self._down))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: _Direction) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

        async def deliver() -> None:
            while (item := await under_way.get())[1]:
                await asyncio.sleep(item[0] - time.monotonic())
                writer.write(item[1])
                await writer.drain()

        delivering = asyncio.create_task(deliver())
        try:
            end = b""
            while piece := await reader.read(_PIECE):
                way.requests += (end + piece).count(_REQUEST)
                end = piece[1 - len(_REQUEST) :]
                await under_way.put((way.arrival(len(piece)), piece))
            await under_way.put((0, b""))
            await delivering
        except ConnectionError:
            delivering.cancel()
        finally:
            writer.close()


@contextmanager
def slow_link(target: int, *, rate: float, round_trip: float) -> Iterator[Link]:
    """Relay to a port of this machine."""
    link = Link(target, rate, round_trip)
    loop = asyncio.new_event_loop()
    stop, ready = asyncio.Event(), threading.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=[link._serve(ready, stop)], daemon=True)  # noqa: SLF001
    thread.start()
    ready.wait()
    try:
        yield link
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
