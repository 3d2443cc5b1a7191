"""The keeper's side of sharing decoded spans: it answers workers, passes on shared files, and keeps within a budget.

A span that a worker has decoded stays in its memory until another worker needs it. Then the broker has the worker copy
it once into a sealed file in memory, which no process can change, and passes the file on. It never looks into a file,
and waits for no worker.

Trust: a worker gets a span without decoding it only from mounts of the same image with the same LayerIndexes. Workers
of other images must have decoded the same bytes themselves, so a hostile image has no effect on other images.

One budget bounds the bytes of all shared files and of all spans that workers hold besides.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import resource
import socket
import time
from collections.abc import Callable
from typing import Final

from ocifs.compression import MAX_SPAN
from ocifs.errors import printable_path
from ocifs.mount.job import Job
from ocifs.mount.record import to_json
from ocifs.service.span_ledger import SpanEntry, SpanHolder, SpanLedger
from ocifs.service.span_messages import (
    DIFFERS,
    DROP,
    DROPPED,
    GET,
    HAVE,
    MIN_SPAN,
    NONE,
    OFFER,
    PUBLISH,
    PUT,
    SAME,
    SPAN,
    TRIM,
    Name,
    Record,
    is_sealed,
    receive,
    send,
)

_FILES_MAX: Final = 4096
_SPANS_MAX: Final = 16 << 10
"""Spans that a worker may claim to have."""
_PACKETS: Final = 32
"""Packets of one worker to handle before others get a turn."""
_ANSWER_SECONDS: Final = 0.5
_NO_NAME: Final[Name] = (bytes(16), 0)
_log = logging.getLogger(__name__)


class SpanBroker:
    """Connects the workers of a keeper, within a budget of `capacity` bytes."""

    def __init__(
        self, capacity: int, watch: Callable[[int, Callable[[], None]], None], unwatch: Callable[[int], None]
    ) -> None:
        """`watch` calls a function when a descriptor is readable, until `unwatch`. Raises OSError."""
        self.capacity = capacity
        self._watch, self._unwatch = watch, unwatch
        self._peers: dict[int, SpanHolder] = {}
        self._ledger = SpanLedger()
        self._files_max = min(_FILES_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        self._turn = 0

    @property
    def shared(self) -> int:
        """Bytes of the files."""
        return self._ledger.shared

    @property
    def own(self) -> int:
        """Bytes that workers have decoded and not shared."""
        return self._ledger.own

    @property
    def hints(self) -> int:
        """Descriptor of the hints, which workers can only read."""
        return self._ledger.hints

    @property
    def files(self) -> int:
        """Number of files with shared spans."""
        return len(self._ledger.files)

    def connect(self, job: Job) -> socket.socket:
        """Return the end of a new connection for the worker of a job. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(0)
        fd = ours.fileno()
        self._peers[fd] = SpanHolder(ours, _domain(job), job.mountpoint)
        self._watch(fd, lambda: self._receive(self._peers[fd]))
        return theirs

    def _receive(self, peer: SpanHolder) -> None:
        for _ in range(_PACKETS):
            try:
                records, fd = receive(peer.connection)
            except BlockingIOError:
                return
            except (OSError, ValueError):
                records, fd = [], None
            try:
                if not records or not all(self._handle(peer, record, fd) for record in records):
                    self._disconnect(peer)
                    return
            finally:
                if fd is not None:
                    os.close(fd)

    def _handle(self, peer: SpanHolder, record: Record, fd: int | None) -> bool:
        """Handle a record of a worker; return False if it is malformed, or the worker is disconnected by now."""
        kind, name, value = record
        if peer.connection.fileno() < 0:  # by an earlier record: what it has would never be forgotten again
            return False
        if kind in {SAME, DIFFERS}:
            self._compared(peer, name, value, same=kind == SAME)
        elif value > MAX_SPAN or len(peer.spans) > _SPANS_MAX:
            return False
        elif kind == GET:
            self._get(peer, name, value)
        elif kind == HAVE:
            self._have(peer, name, value)
        elif kind == DROPPED:
            self._dropped(peer, name)
        elif kind == PUT:
            return fd is not None and is_sealed(fd, value) and self._put(peer, name, value, fd)
        else:
            return False
        return True

    def _get(self, peer: SpanHolder, name: Name, end: int) -> None:
        entry = self._ledger.entries.get(name)
        if entry is not None:
            self._dropped(peer, name)  # it asks, so it has the span no longer
            entry = self._ledger.entries.get(name)
        if entry is None or entry.disputed:
            send(peer.connection, [Record(NONE, name)])
        elif entry.fd is not None and entry.size >= end and peer.domain in entry.domains:
            self._offer(peer, name, entry)
        elif not self._ask(name, entry, peer.domain, end):
            send(peer.connection, [Record(NONE, name)])
        else:
            entry.waiting[peer] = end

    def _ask(self, name: Name, entry: SpanEntry, domain: bytes | None, end: int) -> bool:
        """Ask a worker for a file with `end` bytes, one of a domain if that is given; return whether there is one."""
        if entry.asked is not None:
            in_time = time.monotonic() < entry.asked_until
            return in_time and domain in (None, entry.asked.domain) and entry.own.get(entry.asked, 0) >= end
        able = [each for each, size in entry.own.items() if size >= end and domain in (None, each.domain)]
        for each in sorted(able, key=entry.own.__getitem__, reverse=True):
            if send(each.connection, [Record(PUBLISH, name)]):
                entry.asked, entry.asked_until = each, time.monotonic() + _ANSWER_SECONDS
                return True
        return False

    def _have(self, peer: SpanHolder, name: Name, size: int) -> None:
        """Note a decoded span; if others have it too, let them share it."""
        if size < MIN_SPAN:
            return
        self._turn += 1
        peer.turn = self._turn
        entry = self._ledger.entries.setdefault(name, SpanEntry())
        self._ledger.note(peer, name)
        self._ledger.set_own(peer, entry, size)
        if not entry.disputed:
            if entry.fd is not None and entry.size >= size:
                self._offer(peer, name, entry)
            elif len(entry.own) > 1 or entry.users - {peer}:
                self._ask(name, entry, None, size)
        self._keep_budget(peer)

    def _put(self, peer: SpanHolder, name: Name, size: int, fd: int) -> bool:
        entry = self._ledger.entries.get(name)
        if entry is None or entry.asked is not peer:
            return entry is None or not entry.disputed  # the entry was forgotten meanwhile
        entry.asked = None
        try:
            own_fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)
        except OSError:  # too many open files
            self._dropped(peer, name)
            return True
        self._ledger.set_own(peer, entry, 0)
        entry.users.discard(peer)  # the user of an earlier file
        self._unpublish(name, entry)
        self._ledger.entries[name] = entry
        self._ledger.note(peer, name)
        self._ledger.set_file(name, entry, own_fd, size)
        entry.domains, entry.users = {peer.domain}, {peer}
        waiting, entry.waiting = entry.waiting, {}
        for each, end in waiting.items():
            if each.domain == peer.domain and end <= size:
                self._offer(each, name, entry)
            else:
                send(each.connection, [Record(NONE, name)])
        for each, own in [*entry.own.items()]:
            if own <= size:
                self._offer(each, name, entry)
        self._keep_budget(peer)
        return True

    def _compared(self, peer: SpanHolder, name: Name, inode: int, *, same: bool) -> None:
        """Note a worker's verdict on a file, unless another file has replaced it meanwhile."""
        entry = self._ledger.entries.get(name)
        if entry is None or peer not in entry.own or entry.fd is None or entry.inode != inode:
            return
        if same:
            self._ledger.set_own(peer, entry, 0)
            entry.users.add(peer)
            entry.domains.add(peer.domain)
        else:
            _log.error(
                "%s: another mount has decoded span %d of a layer to different bytes: it is not shared",
                printable_path(peer.mountpoint), name[1],
            )  # fmt: skip
            entry.disputed = True
            self._withdraw(name, entry)

    def _dropped(self, peer: SpanHolder, name: Name) -> None:
        self._ledger.forget(peer, name)
        entry = self._ledger.entries.get(name)
        if entry is None:
            return
        self._ledger.set_own(peer, entry, 0)
        entry.users.discard(peer)
        entry.waiting.pop(peer, None)
        if entry.asked is peer:
            entry.asked = None
            for each in entry.waiting:
                send(each.connection, [Record(NONE, name)])
            entry.waiting.clear()
        self._ledger.remove_unused(name, entry)

    def _offer(self, peer: SpanHolder, name: Name, entry: SpanEntry) -> None:
        """Send the file to a worker: to use, or to compare with its own bytes if it has any."""
        assert entry.fd is not None  # noqa: S101 - the caller has checked
        self._ledger.files.move_to_end(name)
        has_own = peer in entry.own
        sent = send(peer.connection, [Record(OFFER if has_own else SPAN, name, entry.size)], entry.fd)
        if sent and not has_own:
            entry.users.add(peer)
            self._ledger.note(peer, name)

    def _keep_budget(self, active: SpanHolder) -> None:
        """Evict until the budget suffices: files that no worker uses, idle workers' own spans, then used files."""
        while self.shared + self.own > self.capacity or len(self._ledger.files) > self._files_max:
            unused = next((each for each in self._ledger.files.items() if not each[1].users), None)
            oldest = next(iter(self._ledger.files.items()), None)
            idle = [each for each in self._peers.values() if each.own and each is not active]
            if unused is not None:
                self._withdraw(*unused)
            elif idle and len(self._ledger.files) <= self._files_max:
                self._trim(min(idle, key=lambda each: each.turn))
            elif oldest is not None:
                self._withdraw(*oldest)
            else:
                self._trim(active)
                return

    def _trim(self, peer: SpanHolder) -> None:
        """Let a worker give up all its spans."""
        if not send(peer.connection, [Record(TRIM, _NO_NAME)]):
            self._disconnect(peer)
            return
        for name in [*peer.spans]:
            self._dropped(peer, name)

    def _withdraw(self, name: Name, entry: SpanEntry) -> None:
        """Close the file of a span, and let workers give it up."""
        self._unpublish(name, entry)
        self._ledger.remove_unused(name, entry)

    def _unpublish(self, name: Name, entry: SpanEntry) -> None:
        if (fd := self._ledger.take_file(name, entry)) is None:
            return
        os.close(fd)
        for each in [*entry.users]:
            if not send(each.connection, [Record(DROP, name)]):
                self._disconnect(each)  # else it would keep the memory
            elif each not in entry.own:
                self._ledger.forget(each, name)
        entry.users.clear()

    def _disconnect(self, peer: SpanHolder) -> None:
        """Forget a worker that has ended, does not read, or sends malformed records; it continues without sharing."""
        fd = peer.connection.fileno()
        if self._peers.pop(fd, None) is None:
            return
        self._unwatch(fd)
        peer.connection.close()
        for name in [*peer.spans]:
            self._dropped(peer, name)
        for entry in self._ledger.entries.values():
            entry.waiting.pop(peer, None)
        domains = {each.domain for each in self._peers.values()}
        for name, entry in [*self._ledger.files.items()]:
            if not entry.domains & domains:
                self._withdraw(name, entry)

    def close(self) -> None:
        """Close all files and connections."""
        for peer in [*self._peers.values()]:
            self._disconnect(peer)
        with contextlib.suppress(OSError):
            os.close(self.hints)


def _domain(job: Job) -> bytes:
    """Return the identity of everything that a worker decodes: the image, and the LayerIndexes."""
    rootfs = job.rootfs
    return hashlib.sha256(to_json((job.digest, rootfs.checksums, rootfs.published))).digest()
