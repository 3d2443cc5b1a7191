"""What a keeper knows of decoded spans: which worker has decoded which, which are in shared files, and how many bytes.

Invariants: `SpanLedger.own` is the sum of all `SpanHolder.own`, and of all values of `SpanEntry.own`. `shared` is the
sum of the sizes of the files. A hint counts the pairs of worker and span that fall on it. This module sends and closes
nothing.
"""

import fcntl
import mmap
import os
import socket
from collections import OrderedDict
from typing import Final

from ocifs.service.span_messages import HINTS, Name, hint_of

_F_SEAL_FUTURE_WRITE: Final = 0x10  # linux/fcntl.h


class SpanHolder:
    """A worker."""

    def __init__(self, connection: socket.socket, domain: bytes, mountpoint: str) -> None:
        self.connection = connection
        self.domain = domain
        """Workers with the same domain serve the same image with the same indexes."""
        self.mountpoint = mountpoint
        self.spans: set[Name] = set()
        """Spans that it has, of its own or shared."""
        self.own = 0
        """Bytes that it has decoded and not shared."""
        self.turn = 0
        """When it last decoded something."""


class SpanEntry:
    """A span that a worker has."""

    def __init__(self) -> None:
        self.own: dict[SpanHolder, int] = {}
        """How many bytes workers have decoded, which are not shared."""
        self.users: set[SpanHolder] = set()
        """Workers that use the file."""
        self.fd: int | None = None
        self.inode = 0
        self.size = 0
        """Bytes in the file."""
        self.domains: set[bytes] = set()
        """Domains whose workers may use the file without comparing it."""
        self.waiting: dict[SpanHolder, int] = {}
        """How many bytes workers wait for."""
        self.asked: SpanHolder | None = None
        """The worker that was asked for the file."""
        self.asked_until = 0.0
        """Until when others wait for its answer, by the monotonic clock."""
        self.disputed = False
        """Whether two workers have decoded it to different bytes: then it is not shared."""


class SpanLedger:
    """The spans of all workers."""

    def __init__(self) -> None:
        """Create the file of hints. Raises OSError."""
        self.shared = 0
        """Bytes of the files."""
        self.own = 0
        """Bytes that workers have decoded and not shared."""
        self.entries: dict[Name, SpanEntry] = {}
        self.files: OrderedDict[Name, SpanEntry] = OrderedDict()
        """Entries with a file, the least recently used one first."""
        self.hints = os.memfd_create("ocifs-hints", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        """Descriptor of the hints, which workers can only read."""
        os.ftruncate(self.hints, HINTS * 4)
        self._hints = memoryview(mmap.mmap(self.hints, HINTS * 4)).cast("I")
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _F_SEAL_FUTURE_WRITE
        fcntl.fcntl(self.hints, fcntl.F_ADD_SEALS, seals)

    def set_own(self, peer: SpanHolder, entry: SpanEntry, size: int) -> None:
        """Note how many bytes of a span a worker has decoded and not shared."""
        change = size - entry.own.pop(peer, 0)
        if size:
            entry.own[peer] = size
        peer.own += change
        self.own += change

    def set_file(self, name: Name, entry: SpanEntry, fd: int, size: int) -> None:
        """Note the file with a span, which has none."""
        entry.fd, entry.inode, entry.size = fd, os.fstat(fd).st_ino, size
        self.shared += size
        self.files[name] = entry

    def take_file(self, name: Name, entry: SpanEntry) -> int | None:
        """Forget the file with a span; return its descriptor, which the caller closes."""
        fd, entry.fd = entry.fd, None
        if fd is not None:
            self.shared -= entry.size
            del self.files[name]
        return fd

    def note(self, peer: SpanHolder, name: Name) -> None:
        """Note that a worker has a span."""
        if name not in peer.spans:
            peer.spans.add(name)
            self._hints[hint_of(name)] += 1

    def forget(self, peer: SpanHolder, name: Name) -> None:
        """Note that a worker no longer has a span."""
        if name in peer.spans:
            peer.spans.discard(name)
            self._hints[hint_of(name)] -= 1

    def remove_unused(self, name: Name, entry: SpanEntry) -> None:
        """Remove the entry of a span that no worker has, and that is in no file."""
        if entry.fd is None and not entry.own and not entry.users:
            self.entries.pop(name, None)
