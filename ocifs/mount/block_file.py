"""The user-space half of the erofs engine: a FUSE file system with one file, the served file, directly on /dev/fuse.

The kernel's EROFS reads the file like a disk. The file never changes, so the kernel may cache every page for ever. A
FUSE library would take longer to load than a whole mount, and would copy all data once more. This module does not know
what the bytes mean.
"""

import errno
import os
import select
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ocifs.mount import fuse_protocol
from ocifs.mount.counters import AWAKE, IDLE, Counters
from ocifs.mount.fuse_protocol import NOT_ANSWERED, REQUEST_MAX, ROOT, FuseRequest, Operation, parse_request
from ocifs.mount.rate_limited_log import log_failure
from ocifs.mount.reading import Reading, Views

_FILE = ROOT + 1
_IOV_MAX = 1000


class Idleness(NamedTuple):
    """When to note in the counters that a mount is idle."""

    seconds: float
    """Seconds without a request."""
    may_begin: Callable[[], bool]
    """Whether nothing else is in progress."""


class BlockFile:
    """A file system with the one file `name`, on the open /dev/fuse `device`, which this object owns."""

    def __init__(self, device: int, name: str, reading: Reading, counters: Counters | None = None) -> None:
        self._device = device
        self._name = name.encode()
        self._reading = reading
        self._counters = counters or Counters.private()
        self.released: Callable[[], None] = lambda: None
        """Called when a process has closed the file."""
        os.set_blocking(device, False)

    def serve(self, stop: int, idleness: Idleness | None = None) -> bool:
        """Serve until `stop` is readable, or the connection has ended; return True in the latter case."""
        poll = select.poll()
        poll.register(self._device, select.POLLIN)
        poll.register(stop, select.POLLIN)
        is_idle = False
        while stop not in (ready := dict(poll.poll(None if idleness is None or is_idle else idleness.seconds * 1000))):
            if not ready:
                assert idleness is not None  # noqa: S101 - it has set the time
                if is_idle := not self._reading.is_busy() and idleness.may_begin():
                    self._counters.activity = IDLE
                continue
            if is_idle:
                is_idle = False
                self._counters.activity = AWAKE
            try:
                request = parse_request(os.read(self._device, REQUEST_MAX))
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return True
                if error.errno not in {errno.EAGAIN, errno.ENOENT, errno.EINTR}:  # ENOENT: the request was interrupted
                    raise
            else:
                self._take(request)
        return False

    def close(self) -> None:
        """Stop the threads of reads, and close the device, which ends the file system."""
        self._reading.close()
        if self._device >= 0:
            os.close(self._device)
            self._device = -1

    def _take(self, request: FuseRequest) -> None:
        """Answer in a thread if data has to be decoded, else at once."""
        if request.operation == Operation.READ:
            began = time.monotonic()
            size, offset = fuse_protocol.range_in(request.body)
            if offset >= self._reading.served.size:  # a forged file handle; a short answer would truncate the file
                self._send(request.unique, error=errno.EIO)
                return
            try:
                views = self._reading.at_hand(size, offset)
            except Exception as error:  # noqa: BLE001 - a defect in one request must not end the mount
                self._fail(request.unique, began, error)
                return
            if views is None:
                self._reading.fetch([(size, offset)], partial(self._answer, request.unique, began))
            else:
                self._send(request.unique, views)
                self._counters.note_read(time.monotonic() - began, sum(map(len, views)), hit=True)
        elif request.operation not in NOT_ANSWERED:
            reply = self._reply(request)
            if isinstance(reply, int):
                self._send(request.unique, error=reply)
            else:
                self._send(request.unique, [reply])

    def _answer(self, unique: int, began: float, result: list[Views] | Exception) -> None:
        if isinstance(result, Exception):
            self._fail(unique, began, result)
        else:
            self._send(unique, result[0])
            self._counters.note_read(time.monotonic() - began, sum(map(len, result[0])), hit=False)

    def _reply(self, request: FuseRequest) -> bytes | int:
        """Return the result of any other operation, or an errno."""
        match request.operation:
            case Operation.LOOKUP:
                if fuse_protocol.name_in(request.body) != self._name:
                    return errno.ENOENT
                return fuse_protocol.entry(_FILE, self._reading.served.size)
            case Operation.GETATTR:
                return fuse_protocol.attributes(
                    request.inode, self._reading.served.size if request.inode == _FILE else None
                )
            case Operation.OPEN:
                return fuse_protocol.opened()
            case Operation.INIT:
                return fuse_protocol.initialised(request.body)
            case Operation.RELEASE:
                self.released()
                return b""
            case Operation.DESTROY:
                return b""
        return errno.ENOSYS  # for most operations the kernel sends no more requests then

    def _fail(self, unique: int, began: float, error: Exception) -> None:
        log_failure("read", error)
        self._send(unique, error=errno.EIO)
        self._counters.note_error(time.monotonic() - began, error)

    def _send(self, unique: int, parts: list[bytes] | list[memoryview] | tuple[()] = (), *, error: int = 0) -> None:
        pieces = parts if len(parts) < _IOV_MAX else [b"".join(parts)]
        try:
            os.writev(self._device, fuse_protocol.answer(unique, pieces, error=error))
        except OSError as failure:
            if failure.errno not in {errno.ENOENT, errno.ENODEV}:  # interrupted, or unmounted
                log_failure("answer", failure)


def take_over(device: int) -> bool:
    """Ask for the requests that a process which died had taken; return False if the connection has ended.

    Raises OSError.
    """
    try:
        os.write(device, fuse_protocol.resend())
    except OSError as error:
        if error.errno in {errno.ENODEV, errno.EPERM, errno.ENOTCONN}:
            return False
        raise
    return True
