"""The kernel's FUSE protocol, as far as one read-only file needs it (linux/fuse.h, version 7.31).

A request is a header and an operation's arguments; an answer is a header with an errno, or with a result. All numbers
are in native byte order. This module only packs and unpacks.
"""

import stat
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

REQUEST_MAX = 64 << 10
"""Size of the read buffer in bytes: the minimum that the kernel demands exceeds any request without data."""

ROOT = 1
"""Inode number of the root directory."""

FOREVER = 1_000_000_000
"""Seconds, about thirty years: longer than a kernel runs."""

_HEADER = struct.Struct("=IIQQIIIHH")
_ANSWER = struct.Struct("=IiQ")
_READ = struct.Struct("=QQI")
_INIT = struct.Struct("=IIII")
_INITIALISED = struct.Struct("=IIIIHHIIHHI28x")
_ATTRIBUTES = struct.Struct("=6Q3I7I")
_ENTRY_TIMES = struct.Struct("=QQQQII")
_ATTRIBUTE_TIME = struct.Struct("=QII")
_OPENED = struct.Struct("=QII")

_MAJOR, _MINOR = 7, 31
_ASYNC_READ, _MAX_PAGES = 1 << 0, 1 << 22
_PAGES = 256
_NOTIFY_RESEND = 7
_BACKGROUND = 64
"""Readahead requests that the kernel may have in flight."""
_WRITE = 4096
_KEEP_CACHE, _NO_FLUSH = 1 << 1, 1 << 5


class Operation(IntEnum):
    """The operations that are answered."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    RELEASE = 18
    INIT = 26
    DESTROY = 38
    BATCH_FORGET = 42


NOT_ANSWERED = frozenset({Operation.FORGET, Operation.BATCH_FORGET})


class FuseRequest(NamedTuple):
    """A request; its answer repeats `unique`."""

    operation: int
    unique: int
    inode: int
    body: memoryview


def parse_request(data: bytes) -> FuseRequest:
    """Parse a request of the kernel."""
    _, operation, unique, inode, *_ = _HEADER.unpack_from(data)
    return FuseRequest(operation, unique, inode, memoryview(data)[_HEADER.size :])


def name_in(body: memoryview) -> bytes:
    """Return the name in a LOOKUP request; a NUL ends it."""
    return bytes(body).partition(b"\0")[0]


def range_in(body: memoryview) -> tuple[int, int]:
    """Return size and offset of a READ request."""
    _, offset, size = _READ.unpack_from(body)
    return size, offset


def answer(unique: int, parts: Sequence[bytes | memoryview] = (), *, error: int = 0) -> list[bytes | memoryview]:
    """Build an answer, an errno or `parts`, for a single writev(2)."""
    return [_ANSWER.pack(_ANSWER.size + sum(map(len, parts)), -error, unique), *parts]


def resend() -> bytes:
    """Ask the kernel to queue again every request that was taken and not answered (Linux 6.9).

    Such a request comes with another `unique`; the kernel refuses an answer to the earlier one.
    """
    return _ANSWER.pack(_ANSWER.size, _NOTIFY_RESEND, 0)


def initialised(body: memoryview) -> bytes:
    """Answer INIT: allow reads of 1 MiB, many at a time."""
    _, minor, read_ahead, offered = _INIT.unpack_from(body)
    flags = offered & (_ASYNC_READ | _MAX_PAGES)
    return _INITIALISED.pack(
        _MAJOR, min(minor, _MINOR), read_ahead, flags, _BACKGROUND, _BACKGROUND, _WRITE, 1, _PAGES, 0, 0
    )


def entry(inode: int, size: int | None) -> bytes:
    """Answer LOOKUP, valid for ever: a file of `size` bytes, or a directory if `size` is None."""
    return _ENTRY_TIMES.pack(inode, 0, FOREVER, FOREVER, 0, 0) + _attributes(inode, size)


def attributes(inode: int, size: int | None) -> bytes:
    """Answer GETATTR, valid for ever."""
    return _ATTRIBUTE_TIME.pack(FOREVER, 0, 0) + _attributes(inode, size)


def opened() -> bytes:
    """Answer OPEN: the kernel may keep its cached pages, and closing needs no answer, not even of a killed process."""
    return _OPENED.pack(0, _KEEP_CACHE | _NO_FLUSH, 0)


def _attributes(inode: int, size: int | None) -> bytes:
    mode = stat.S_IFDIR | 0o500 if size is None else stat.S_IFREG | 0o400
    return _ATTRIBUTES.pack(inode, size or 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 0, 0)
