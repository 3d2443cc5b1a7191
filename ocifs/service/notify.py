"""Messages to systemd over plain sockets: the state of the service (sd_notify(3)), and log records for the journal."""

import contextlib
import logging
import os
import re
import socket
from typing import Final

MOUNT: Final = "OCIFS_MOUNT"
IMAGE: Final = "OCIFS_IMAGE"
MESSAGE_ID: Final = "MESSAGE_ID"
"""Fields of the journal, and attributes of log records that set them (systemd.journal-fields(7))."""
_JOURNAL: Final = "/run/systemd/journal/socket"
_PRIORITIES: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_LAYER: Final = re.compile(r"\blayer ((?:sha256|sha512):[0-9a-f]+)")
_ENTRY_MAX = 64 << 10


def notify(*assignments: str) -> None:
    """Send NAME=VALUE assignments to systemd, if it has started this process with `Type=notify`."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as end:
        end.connect("\0" + address[1:] if address.startswith("@") else address)
        end.send("\n".join(assignments).encode())


def is_journal(fd: int) -> bool:
    """Whether systemd has connected an open file to the journal (JOURNAL_STREAM, systemd.exec(5))."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


class JournalHandler(logging.Handler):
    """Sends records to the journal with fields of their own (systemd's native journal protocol)."""

    def __init__(self, mount: str | None = None, image: str | None = None, path: str = _JOURNAL) -> None:
        super().__init__()
        self._fields = {MOUNT: mount, IMAGE: image, MESSAGE_ID: None}
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record; drop it if the journal does not take it."""
        message = self.format(record)
        layer = _LAYER.search(message)
        fields = {
            "MESSAGE": message,
            "PRIORITY": str(_PRIORITIES.get(record.levelno, 6)),
            "SYSLOG_IDENTIFIER": "ocifs",
            "OCIFS_LAYER": layer[1] if layer else None,
            **{name: getattr(record, name, value) for name, value in self._fields.items()},
        }
        entry = b"".join(_field(name, value) for name, value in fields.items() if value is not None)
        with contextlib.suppress(OSError):
            self._socket.sendto(entry[:_ENTRY_MAX], socket.MSG_DONTWAIT, self._path)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def _field(name: str, value: str) -> bytes:
    data = value.encode(errors="backslashreplace")
    if b"\n" in data:
        return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
    return name.encode() + b"=" + data + b"\n"
