"""HTTP responses that arrive in time, however a server spreads their bytes.

A socket's timeout limits each wait for bytes. A server that sends a byte before each timeout could thus keep a reader
for ever: within the header, the size of a chunk, its extension, or the trailers. `TimedResponse` limits the wait for
the whole header, and for each piece of the payload with the framing in front of it. `Pace` limits how long a payload
may take that arrives in small pieces. Neither of them needs a thread.
"""

import http.client
import io
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

MIN_RATE = 1024
"""Bytes of payload per second: a slower server counts as stuck."""


class TimedResponse(http.client.HTTPResponse):
    """A response whose header arrives within the timeout of the socket, and so does each piece that `read1` returns.

    The other methods that read a body share one timeout, which begins with the header or the last `read1`. All of them
    raise TimeoutError. A connection uses this class if it is its `response_class`, also for the answer of a proxy.
    """

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._timed = _TimedReader(self.fp.detach(), sock)
        self.fp = io.BufferedReader(self._timed)

    def read1(self, n: int = -1) -> bytes:
        """Return up to `n` bytes of the body, as soon as there are some."""
        self._timed.renew()
        return super().read1(n)


class _TimedReader(io.RawIOBase):
    """Reads from a socket until a deadline."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw = raw
        self._sock = sock
        self._seconds = sock.gettimeout()
        self.renew()

    def renew(self) -> None:
        """Move the deadline to the socket's timeout from now on."""
        self._ends = None if self._seconds is None else time.monotonic() + self._seconds

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Receive into the buffer. Raises TimeoutError at the deadline."""
        if self._ends is not None:
            left = self._ends - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        """Restore the socket's timeout. The connection then closes the socket, or sends the next request."""
        if not self.closed:
            with suppress(OSError):  # it may be closed
                self._sock.settimeout(self._seconds)
            self._raw.close()
        super().close()


class Pace:
    """Measures whether a payload arrives at `MIN_RATE`, over periods in which a reader has waited `period` seconds.

    The time that the reader takes between two pieces does not count.
    """

    def __init__(self, period: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._period = period
        self._clock = clock
        self._waited = 0.0
        self._received = 0

    def read(self, read: Callable[[], bytes]) -> bytes:
        """Return the next piece, from `read`."""
        began = self._clock()
        piece = read()
        self._waited += self._clock() - began
        self._received += len(piece)
        return piece

    @property
    def is_lost(self) -> bool:
        """Whether the rate was too low in the last period; begins the next one."""
        if self._waited <= self._period:
            return False
        received, self._received = self._received, 0
        waited, self._waited = self._waited, 0.0
        return received < MIN_RATE * waited
