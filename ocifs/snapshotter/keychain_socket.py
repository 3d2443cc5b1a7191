"""Credentials for the workers of mounted images, from the keychain, over a socket (`ocifs.sources.registry.keychain`).

A mount outlives the credentials that it began with, such as a token for twelve hours. When the registry refuses them,
its worker asks here for those of the last pull. The socket is for processes of root; it is gone while no snapshotter
runs, and a worker then has to do without.
"""

import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from ocifs.errors import ShortageError, printable_path
from ocifs.pool import start
from ocifs.snapshotter.keychain import Keychain
from ocifs.sources.registry.keychain import NAME_MAX, SECONDS, is_trusted

SOCKET: Final = "keychain.sock"
"""Its name in the directory of the snapshotter."""
_PAUSE: Final = 0.1
"""Seconds."""
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def answering(path: Path, keychain: Keychain) -> Iterator[None]:
    """Answer at a path, of which only this process makes use; without an answer, mounts are served all the same."""
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            _listen(listener, path)
            thread = start(lambda: _answer_all(listener, keychain))
            stack.callback(thread.join)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            stack.callback(path.unlink, missing_ok=True)
        except (OSError, ShortageError) as error:
            shown = printable_path(str(path))
            _log.warning("mounts cannot renew their credentials: cannot listen on %s: %s", shown, error)
        yield


def _listen(listener: socket.socket, path: Path) -> None:
    path.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen()


def _answer_all(listener: socket.socket, keychain: Keychain) -> None:
    """Answer one worker after the other, until the listener is shut down."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            if error.errno == errno.EINVAL:  # it is shut down
                return
            time.sleep(_PAUSE)  # no descriptor is free
            continue
        with connection, contextlib.suppress(OSError):
            connection.settimeout(SECONDS)
            _answer(connection, keychain)


def _answer(connection: socket.socket, keychain: Keychain) -> None:
    if not is_trusted(connection):
        return
    name = b""
    while not name.endswith(b"\n") and len(name) <= NAME_MAX:
        if not (piece := connection.recv(1 << 16)):
            return
        name += piece
    connection.sendall(msgspec.json.encode(keychain.find(os.fsdecode(name[:-1]))))
