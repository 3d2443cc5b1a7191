"""Responses from a server that spreads its bytes: each wait ends, and what arrives in time is read."""

import itertools
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager

import pytest

from ocifs.sources.timed_response import MIN_RATE, Pace, TimedResponse

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@contextmanager
def response(begin: bytes, repeated: bytes, timeout: float) -> Iterator[TimedResponse]:
    """Yield a response that begins with `begin`; then the server repeats `repeated` until the reader is gone."""
    near, far = socket.socketpair()
    near.settimeout(timeout)
    gone = threading.Event()
    far.sendall(begin)

    def send() -> None:
        with far:
            try:
                while repeated and not gone.wait(timeout / 20):
                    far.sendall(repeated)
                gone.wait()
            except OSError:
                pass

    server = threading.Thread(target=send)
    server.start()
    try:
        with closing(near), closing(TimedResponse(near)) as made:
            yield made
    finally:
        gone.set()
        server.join()


@pytest.mark.parametrize(
    ("begin", "repeated"),
    [(b"", b""), (b"", b"H"), (OK, b""), (OK + b"X: ", b"x"), (OK, b"X: y\r\n"), (b"", b"HTTP/1.1 100 Go on\r\n\r\n")],
    ids=["nothing", "status line", "no header", "one header", "many headers", "continue"],
)
def test_the_whole_header_has_one_deadline(begin: bytes, repeated: bytes) -> None:
    with response(begin, repeated, 0.2) as made, pytest.raises(TimeoutError):
        made.begin()


@pytest.mark.parametrize(
    ("begin", "repeated"),
    [
        (CHUNKED + b"4\r\nbody\r\n", b""),
        (CHUNKED + b"4\r\nbody\r\n", b"0"),
        (CHUNKED + b"4\r\nbody\r\n4;", b"x"),
        (CHUNKED + b"4\r\nbody\r\n0\r\n", b"X: y\r\n" * 100),
        (CHUNKED + b"4\r\nbody\r\n0\r\nX: ", b"y"),
        (OK + b"Content-Length: 9\r\n\r\nbody", b""),
    ],
    ids=["nothing", "size", "extension", "trailers", "one trailer", "length"],
)
def test_a_body_ends_with_the_next_piece_that_is_late(begin: bytes, repeated: bytes) -> None:
    with response(begin, repeated, 0.2) as made:
        made.begin()
        received = bytearray()

        def read() -> None:
            while True:
                received.extend(made.read1())

        with pytest.raises(TimeoutError):
            read()
        assert received == b"body"


def test_all_of_a_body_has_one_deadline() -> None:
    with response(CHUNKED, b"1\r\nx\r\n", 0.2) as made:
        made.begin()
        with pytest.raises(TimeoutError):
            made.read()


def test_a_body_may_take_longer_than_each_piece() -> None:
    """Twenty pieces, each after a twentieth of the timeout or more."""
    with response(CHUNKED, b"2\r\nxy\r\n", 2.0) as made:
        made.begin()
        assert b"".join(itertools.islice(iter(made.read1, b""), 25)) == b"xy" * 25


def test_the_socket_gets_its_timeout_back() -> None:
    near, far = socket.socketpair()
    with near, far:
        near.settimeout(9.0)
        far.sendall(OK + b"Content-Length: 2\r\n\r\nhi")
        made = TimedResponse(near)
        made.begin()
        assert made.read1() == b"hi"
        made.close()
        assert near.gettimeout() == 9.0


class Clock:
    """Time passes while a piece is read."""

    def __init__(self, pieces: Iterable[tuple[float, int]]) -> None:
        self._pieces = iter(pieces)
        self.now = 0.0

    def read(self) -> bytes:
        seconds, size = next(self._pieces)
        self.now += seconds
        return bytes(size)


@pytest.mark.parametrize(
    ("pieces", "lost"),
    [
        ([(30.0, 30 * MIN_RATE)], [False]),
        ([(30.0, 30 * MIN_RATE - 1)], [True]),
        ([(9.0, 1), (0.9, 1), (0.2, 1)], [False, False, True]),
        ([(9.0, 1), (2.0, 11 * MIN_RATE), (9.0, 1), (2.0, 1)], [False, False, False, True]),
    ],
    ids=["as fast as needed", "a byte too few", "small pieces", "the next period"],
)
def test_the_pace_of_each_period_counts(pieces: list[tuple[float, int]], lost: list[bool]) -> None:
    clock = Clock(pieces)
    pace = Pace(10.0, clock=lambda: clock.now)
    found = []
    for _ in pieces:
        pace.read(clock.read)
        found.append(pace.is_lost)
        clock.now += 1000.0  # the reader takes its time
    assert found == lost
