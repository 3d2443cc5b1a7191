"""What the log says of requests that failed: one line for each cause, each once in a while, and never too many.

Whoever reads on in what is damaged, the kernel's read-ahead too, asks for the same again and again; that fills no disk.
"""

import logging
import threading
import time
from collections import OrderedDict

from ocifs.errors import OcifsError, printable_path

_log = logging.getLogger(__name__)

_AGAIN = 600.0
"""Seconds after which the same may be said again."""
_MINUTE = 60.0
_PER_MINUTE = 60
"""Messages; what is beyond is counted."""
_REMEMBERED = 1024
"""Messages."""


class OneLine(logging.Formatter):
    """Formats a message without control characters, so on one line; a traceback follows on lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - as logging names it
        """Escape the message."""
        record.message = printable_path(record.message)
        return super().formatMessage(record)

    def formatException(self, *arguments: object) -> str:  # noqa: N802
        """Escape each line of a traceback: what an exception says may be the image's words."""
        return "\n".join(map(printable_path, super().formatException(*arguments).splitlines()))  # type: ignore[arg-type]


class Complaints:
    """Says what is wrong, as far as it was not said a moment ago. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said: OrderedDict[str, float] = OrderedDict()
        self._minute = 0.0
        self._count = 0

    def complain(self, what: str, error: Exception) -> None:
        """Say why the request `what` failed; a defect of ocifs with where it is."""
        if isinstance(error, OcifsError):
            self._say(str(error))
        elif isinstance(error, OSError):
            self._say(f"{what}: {error.strerror or error}")
        elif isinstance(error, MemoryError):  # no defect
            self._say(f"{what}: out of memory")
        else:
            self._say(f"{what}: {type(error).__name__}: {error}", error)

    def _say(self, message: str, defect: Exception | None = None) -> None:
        with self._lock:
            now = time.monotonic()
            if now - self._said.get(message, now - _AGAIN) < _AGAIN:
                return
            if now - self._minute >= _MINUTE:
                if self._count > _PER_MINUTE:
                    _log.error("%d more messages were left out", self._count - _PER_MINUTE)
                self._minute, self._count = now, 0
            self._count += 1
            if self._count > _PER_MINUTE:
                return
            self._said[message] = now
            self._said.move_to_end(message)
            if len(self._said) > _REMEMBERED:
                self._said.popitem(last=False)
            _log.error("%s", message, exc_info=defect)


complain = Complaints().complain
"""Of this process."""


def say_aborted(mountpoint: str) -> None:
    """Say why a mount ends though nobody unmounted it."""
    _log.error("%s: its FUSE connection was aborted, so nothing can be read any more: unmounted", mountpoint)
