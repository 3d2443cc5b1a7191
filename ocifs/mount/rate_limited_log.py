"""A rate-limited log of failed requests: each message at most once in a while, and few in total.

A reader of damaged data, such as the kernel's readahead, repeats its requests; they must not fill the disk.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from ocifs.errors import OcifsError, printable_path

_log = logging.getLogger(__name__)

_REPEAT_SECONDS = 600.0
"""Seconds before the same message is logged again."""
_MINUTE = 60.0
_PER_MINUTE = 60
"""Messages; further ones are counted."""
_REMEMBERED = 1024
"""Messages."""


class OneLineFormatter(logging.Formatter):
    """Formats a message on one line, without control characters; the lines of a traceback follow."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - as logging names it
        """Escape the message."""
        record.message = printable_path(record.message)
        return super().formatMessage(record)

    def formatException(self, *arguments: object) -> str:  # noqa: N802
        """Escape each line of a traceback, since an exception may quote the image."""
        return "\n".join(map(printable_path, super().formatException(*arguments).splitlines()))  # type: ignore[arg-type]


class RateLimitedLog:
    """Logs errors, each unless it was logged recently. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._written: OrderedDict[str, float] = OrderedDict()
        self._minute = 0.0
        self._count = 0

    def log_failure(self, what: str, error: Exception) -> None:
        """Log why the request `what` failed; with a traceback for a defect of ocifs."""
        if isinstance(error, OcifsError):
            self._write(str(error))
        elif isinstance(error, OSError):
            self._write(f"{what}: {error.strerror or error}")
        elif isinstance(error, MemoryError):  # not a defect
            self._write(f"{what}: out of memory")
        else:
            self._write(f"{what}: {type(error).__name__}: {error}", error)

    def _write(self, message: str, defect: Exception | None = None) -> None:
        with self._lock:
            now = self._clock()
            if now - self._written.get(message, now - _REPEAT_SECONDS) < _REPEAT_SECONDS:
                return
            if now - self._minute >= _MINUTE:
                if self._count > _PER_MINUTE:
                    _log.error("%d more messages were suppressed", self._count - _PER_MINUTE)
                self._minute, self._count = now, 0
            self._count += 1
            if self._count > _PER_MINUTE:
                return
            self._written[message] = now
            self._written.move_to_end(message)
            if len(self._written) > _REMEMBERED:
                self._written.popitem(last=False)
            _log.error("%s", message, exc_info=defect)


log_failure = RateLimitedLog().log_failure
"""The log of this process."""


def log_aborted(mountpoint: str) -> None:
    """Log why a mount ends although it was not unmounted."""
    _log.error("%s: its FUSE connection was aborted, so nothing can be read any more: unmounted", mountpoint)
