"""Messages with open files over a Unix stream socket, bounded before memory is spent on them.

A message is a header, one NUL for each batch of file descriptors, and the payload. The header has the payload's length
and the number of descriptors, both as little-endian u32. This module does not know what a message means.
"""

import array
import os
import socket
import struct
from collections.abc import Sequence

from ocifs.errors import MountError, too_many_files

MESSAGE_MAX = 16 << 20
"""Bytes of a payload: the job of an image with 500 layers takes some 300 KiB."""
FDS_MAX = 4096
"""Descriptors of a message: an image has two for each layer."""

_HEADER = struct.Struct("<II")
_AT_ONCE = 250
"""Descriptors in a batch; the kernel accepts 253."""
_PIECE = 256 << 10


def send_message(connection: socket.socket, payload: bytes, fds: Sequence[int] = ()) -> None:
    """Send a message. Raises OSError, TimeoutError."""
    connection.sendall(_HEADER.pack(len(payload), len(fds)))
    for first in range(0, len(fds), _AT_ONCE):
        socket.send_fds(connection, [b"\0"], fds[first : first + _AT_ONCE])
    connection.sendall(payload)


class Incoming:
    """A message that arrives in pieces. It owns the received descriptors until `take` passes them on."""

    def __init__(self) -> None:
        self.fds: list[int] = []
        self._data = bytearray()

    def receive(self, connection: socket.socket) -> bool:
        """Receive what is there; return False at the end of the stream.

        Raises:
            LimitError: This process may not open that many files.
            MountError: The peer exceeds a bound, or sends what is not a message.
            OSError: BlockingIOError and TimeoutError among others.
        """
        wanted = min(self._missing(), _PIECE)
        data, ancillary, flags, _ = connection.recvmsg(wanted, socket.CMSG_SPACE(_AT_ONCE * 4), socket.MSG_CMSG_CLOEXEC)
        for level, kind, packed in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                received = array.array("i")
                received.frombytes(packed[: len(packed) - len(packed) % received.itemsize])
                self.fds += received
        if flags & socket.MSG_CTRUNC:
            raise too_many_files()
        self._data += data
        self._check()
        return bool(data)

    @property
    def is_complete(self) -> bool:
        """Whether all of it has arrived."""
        return self._missing() == 0

    def take(self) -> tuple[bytes, list[int]]:
        """Return the payload of a complete message and its descriptors, which the caller owns."""
        _, count = self._header()
        payload = bytes(self._data[_HEADER.size + _batches(count) :])
        fds, self.fds = self.fds, []
        self._data.clear()
        return payload, fds

    def close(self) -> None:
        """Close the descriptors."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def _header(self) -> tuple[int, int]:
        size, count = _HEADER.unpack_from(self._data)
        return size, count

    def _missing(self) -> int:
        if len(self._data) < _HEADER.size:
            return _HEADER.size - len(self._data)
        size, count = self._header()
        return _HEADER.size + _batches(count) + size - len(self._data)

    def _check(self) -> None:
        if len(self._data) < _HEADER.size:
            if self.fds:
                raise MountError("malformed message: file descriptors before its header")
            return
        size, count = self._header()
        if size > MESSAGE_MAX:
            raise MountError(f"message of {size} bytes: {MESSAGE_MAX} are allowed")
        if count > FDS_MAX:
            raise MountError(f"message with {count} open files: {FDS_MAX} are allowed")
        if len(self.fds) > count:
            raise MountError(f"malformed message: more than the announced {count} open files")
        if self.is_complete and len(self.fds) < count:
            raise MountError(f"malformed message: {len(self.fds)} open files of {count}")


def receive_message(connection: socket.socket) -> tuple[bytes, list[int]] | None:
    """Receive a message with a blocking socket; return None if the peer closes it before a message is complete.

    Raises the errors of `Incoming.receive`.
    """
    incoming = Incoming()
    try:
        while not incoming.is_complete:
            if not incoming.receive(connection):
                return None
        return incoming.take()
    finally:
        incoming.close()


def _batches(count: int) -> int:
    return -(-count // _AT_ONCE)
