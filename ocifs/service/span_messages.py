"""Messages about decoded spans between a worker and its keeper: records of fixed size in a packet, at most one file.

A lost message does no harm: each side ignores records that do not fit its state, and waits only for a short time.
"""

import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

HAVE, DROPPED, GET, PUT, SAME, DIFFERS, SPAN, OFFER, NONE, PUBLISH, DROP, TRIM = range(12)
"""A worker has decoded `value` bytes; has a span no longer, or cannot send it; needs `value` bytes; sends `value` bytes
in a file, as asked; has the same bytes as the file with inode `value`; or others. A keeper has `value` bytes in a file,
to use; or to compare; has none; needs a file; shares the span no longer; needs all memory back."""

MIN_SPAN: Final = 64 << 10
"""Bytes: smaller spans are not worth a file."""
HINTS: Final = 16 << 10
"""Number of hints, a power of 2: for each, how many spans in the hands of workers fall on it, as u32."""
_RECORD: Final = struct.Struct("<B16sIQ")
RECORDS_MAX: Final = 128
"""Records in a packet."""
_MFD_NOEXEC_SEAL: Final = 0x8  # linux/memfd.h
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

Name = tuple[bytes, int]
"""(identity of the LayerIndex, span)"""


class Record(NamedTuple):
    """A message about one span."""

    kind: int
    name: Name
    value: int = 0


def hint_of(name: Name) -> int:
    """Return the number of the hint of a span."""
    return (int.from_bytes(name[0][:4], "little") + name[1]) % HINTS


def send(connection: socket.socket, records: Sequence[Record], fd: int | None = None) -> bool:
    """Send records without waiting; return whether the peer will get them. Raises nothing."""
    packet = b"".join(_RECORD.pack(kind, *name, value) for kind, name, value in records)
    try:
        if fd is None:
            connection.send(packet, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        else:
            socket.send_fds(connection, [packet], [fd], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        return False
    return True


def receive(connection: socket.socket) -> tuple[list[Record], int | None]:
    """Return the records of a packet, none at the end of the connection, and the file in it, which the caller closes.

    Raises ValueError for what is not a packet of records, and OSError.
    """
    flags = socket.MSG_CMSG_CLOEXEC
    packet, fds, found, _ = socket.recv_fds(connection, RECORDS_MAX * _RECORD.size, 1, flags)
    if len(packet) % _RECORD.size or found & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(fds) > 1:
        for fd in fds:
            os.close(fd)
        raise ValueError("not a packet of records")
    return [*_records(packet)], fds[0] if fds else None


def _records(packet: bytes) -> Iterator[Record]:
    for kind, layer, span, value in _RECORD.iter_unpack(packet):
        yield Record(kind, (layer, span), value)


def sealed(pieces: Sequence[memoryview | bytes]) -> int:
    """Return a file in memory with these bytes, which no process can change any more. Raises OSError."""
    try:
        fd = os.memfd_create("ocifs-span", os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
    except OSError:  # before Linux 6.3
        fd = os.memfd_create("ocifs-span", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for piece in pieces:
            left = memoryview(piece)
            while left:
                left = left[os.write(fd, left) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_sealed(fd: int, size: int) -> bool:
    """Whether a file has `size` bytes, and no process can change them."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS and os.fstat(fd).st_size == size
    except OSError:  # a file without seals
        return False
