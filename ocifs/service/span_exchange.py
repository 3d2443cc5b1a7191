"""The worker's side of sharing decoded spans: it asks the keeper before it decodes, and sends its own spans to others.

A file with a span is used only if it is sealed, so its bytes never change. If this worker has decoded the span itself,
it compares the bytes before it uses the file instead of its own. Every failure means: decode, and do not share.
"""

import contextlib
import hashlib
import mmap
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Final

import msgspec

from ocifs.errors import ShortageError
from ocifs.layer.layer import Layer
from ocifs.layer.span import Span
from ocifs.layer.span_cache import Key, SpanCache
from ocifs.layer.span_memory import trim_heap
from ocifs.pool import start
from ocifs.service.span_messages import (
    DIFFERS,
    DROP,
    DROPPED,
    GET,
    HAVE,
    HINTS,
    MIN_SPAN,
    NONE,
    OFFER,
    PUBLISH,
    PUT,
    RECORDS_MAX,
    SAME,
    SPAN,
    TRIM,
    Name,
    Record,
    hint_of,
    is_sealed,
    receive,
    sealed,
    send,
)

_BATCH_MILLISECONDS: Final = 50
"""Time for which notes to the keeper are collected."""
_IDLE_SECONDS: Final = 1.0
"""Time after which the memory that decoding has left goes back to the system."""
_PATIENCE: Final = 0.1
"""Seconds to wait for a span of another worker: decoding it takes some milliseconds."""


class SpanExchange:
    """Shares the spans of a mount's cache; see `ocifs.layer.span_cache.Sharing`. Idle until the first span is read."""

    def __init__(
        self,
        connection: socket.socket,
        hints: int,
        layers: Sequence[Layer],
        cache: SpanCache,
        patience: float = _PATIENCE,
    ) -> None:
        """`hints` is the descriptor of the keeper's hints; `patience`, the seconds to wait. Raises OSError."""
        self.taken = 0
        """Spans that other mounts have decoded for this one."""
        self._connection = connection
        self._hints = memoryview(mmap.mmap(hints, HINTS * 4, prot=mmap.PROT_READ)).cast("I")
        self._layers = layers
        self._cache = cache
        self._patience = patience
        self._identities: list[bytes] = []
        self._numbers: dict[bytes, int] = {}
        self._wanted: dict[Name, SimpleQueue[memoryview | None]] = {}
        self._pending: deque[Record] = deque()
        """Notes that are not sent yet: any thread appends, and only `_flush` removes, under the lock."""
        self._lock = threading.Lock()
        self._state = "idle"
        self._is_busy = False
        """Whether the thread of this object waits with a timeout."""
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def find(self, key: Key, size: int, end: int) -> memoryview | None:
        """Return at least the first `end` bytes of a span of `size` bytes if another mount has them; never raise."""
        if size < MIN_SPAN or not self._shares(key):
            return None
        name = self._name(key)
        if not self._hints[hint_of(name)]:
            return None
        answer: SimpleQueue[memoryview | None] = SimpleQueue()
        self._wanted[name] = answer
        try:
            self._flush()  # send pending notes first: one may say that the span was dropped
            if not send(self._connection, [Record(GET, name, end)]):
                return None
            found = answer.get(timeout=self._patience)
        except Empty:
            return None
        finally:
            del self._wanted[name]
        if found is None or len(found) < end:
            return None
        self.taken += 1
        return found

    def decoded(self, key: Key, span: Span) -> None:
        """Tell the keeper that this mount has decoded more of a span."""
        if span.size >= MIN_SPAN and self._shares(key):
            self._note(Record(HAVE, self._name(key), span.decoded))

    def dropped(self, key: Key) -> None:
        """Tell the keeper that this mount no longer has a span."""
        if self._state == "open" and self._shares(key):
            self._note(Record(DROPPED, self._name(key)))

    def _note(self, record: Record) -> None:
        """Send a record soon, together with others."""
        self._pending.append(record)
        if not self._is_busy:
            self._is_busy = True
            os.eventfd_write(self._wake, 1)

    def _flush(self) -> None:
        with self._lock:
            while self._pending:
                count = min(len(self._pending), RECORDS_MAX)
                send(self._connection, [self._pending.popleft() for _ in range(count)])

    def _shares(self, key: Key) -> bool:
        """Whether spans of a layer are shared: not if the image has the layer again, because they have one name."""
        return self._is_open() and self._numbers[self._identities[key[0]]] == key[0]

    def _is_open(self) -> bool:
        if self._state == "idle":
            with self._lock:
                if self._state == "idle":
                    self._open()
        return self._state == "open"

    def _open(self) -> None:
        self._identities = [_identity(layer) for layer in self._layers]
        self._numbers = {identity: number for number, identity in enumerate(self._identities)}
        self._state = "open"
        try:
            start(self._listen)
        except ShortageError:
            self._state = "closed"

    def _name(self, key: Key) -> Name:
        return self._identities[key[0]], key[1]

    def _listen(self) -> None:
        """Handle messages of the keeper, and send it notes, until it ends."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        last = 0.0
        with contextlib.suppress(OSError, ValueError):
            while True:
                ready = dict(poll.poll(_BATCH_MILLISECONDS if self._is_busy else None))
                if self._wake in ready:
                    os.eventfd_read(self._wake)
                if self._connection.fileno() in ready and not self._receive():
                    break
                if ready or self._pending:
                    last = time.monotonic()
                elif time.monotonic() - last > _IDLE_SECONDS:
                    self._is_busy = False
                    self._cache.release()
                    trim_heap()
                self._flush()
        self._state = "closed"
        self._connection.close()
        for answer in [*self._wanted.values()]:
            answer.put(None)

    def _receive(self) -> bool:
        """Handle a packet of the keeper; return False at its end. Raises OSError, ValueError."""
        records, fd = receive(self._connection)
        try:
            for record in records:
                self._handle(record, fd)
        finally:
            if fd is not None:
                os.close(fd)
        return bool(records)

    def _handle(self, record: Record, fd: int | None) -> None:
        kind, name, size = record
        if kind == TRIM:
            self._cache.clear()
            return
        number = self._numbers.get(name[0])
        if number is None:
            return
        key = number, name[1]
        span = self._cache.cached(key)
        if kind in {SPAN, NONE} and (answer := self._wanted.get(name)) is not None:
            answer.put(None if fd is None else _mapped(fd, size))
        elif kind in {SPAN, OFFER} and fd is not None:  # never for a reader: the bytes may be those of another image
            self._compare(name, key, span, fd, size)
        elif kind == PUBLISH:
            self._publish(name, key, span)
        elif kind == DROP:
            self._cache.drop_shared(key)

    def _compare(self, name: Name, key: Key, span: Span | None, fd: int, size: int) -> None:
        """Use the bytes of a file instead of those that this worker has decoded, if they are equal."""
        if span is None or (view := _mapped(fd, size)) is None:
            send(self._connection, [Record(DROPPED, name)])
        elif (same := self._cache.replace(key, span, view)) is not None:
            send(self._connection, [Record(SAME if same else DIFFERS, name, os.fstat(fd).st_ino)])

    def _publish(self, name: Name, key: Key, span: Span | None) -> None:
        """Send a file with a span to the keeper, and use it as well."""
        pieces = () if span is None else span.pieces
        size = sum(map(len, pieces))
        try:
            fd = sealed(pieces) if size else None
        except OSError:
            fd = None
        if span is None or fd is None:
            send(self._connection, [Record(DROPPED, name)])
            return
        try:
            if send(self._connection, [Record(PUT, name, size)], fd) and (view := _mapped(fd, size)) is not None:
                self._cache.replace(key, span, view)
        finally:
            os.close(fd)


def _identity(layer: Layer) -> bytes:
    """Return a digest of what the spans of a verified layer depend on: trimmed windows yield the same bytes."""
    summary = msgspec.structs.replace(layer.index.summary, windows=b"", untrimmed=False, warnings=())
    return hashlib.sha256(msgspec.msgpack.encode(summary)).digest()[:16]


def _mapped(fd: int, size: int) -> memoryview | None:
    """Return the bytes of a sealed file; None if they could change, or cannot be mapped."""
    if not is_sealed(fd, size):
        return None
    try:
        return memoryview(mmap.mmap(fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=mmap.PROT_READ))
    except (OSError, ValueError):
        return None
