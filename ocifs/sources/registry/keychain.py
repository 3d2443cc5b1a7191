"""The socket at which the snapshotter gives a worker credentials, once a registry refuses those of the mount.

The worker sends `HOST[:PORT]/REPOSITORY` and a line feed; the answer is JSON, and ends the connection. Both sides are
processes of root, or of one user; the snapshotter's side is `ocifs.snapshotter.keychain_socket`.
"""

import os
import socket
import struct

import msgspec

from ocifs.sources.registry.peer import Credentials, KeychainEntry

NAME_MAX = 64 << 10
"""Most bytes of a request."""
SECONDS = 5.0
"""Seconds that either side waits for the other."""
_ANSWER_MAX = 1 << 20
_PEER = struct.Struct("3i")


def ask(entry: KeychainEntry) -> Credentials | None:
    """Return the credentials of an entry; None: there are none, or the snapshotter does not run."""
    data = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(SECONDS)
            connection.connect(entry.socket)
            if not is_trusted(connection):
                return None
            connection.sendall(os.fsencode(entry.name) + b"\n")
            while (piece := connection.recv(1 << 16)) and len(data) <= _ANSWER_MAX:
                data += piece
        return msgspec.json.decode(data, type=Credentials | None)
    except (OSError, ValueError):
        return None


def is_trusted(connection: socket.socket) -> bool:
    """Return whether the other side is a process of root, or of this user (SO_PEERCRED)."""
    _, uid, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return uid in {0, os.geteuid()}
