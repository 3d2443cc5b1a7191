"""What a daemon does in the background: here only what is computed (tests/mounted/test_registry.py has the rest)."""

import errno
import logging
import time
from queue import Queue

import pytest

from ocifs.errors import InvalidImageError, ShortageError
from ocifs.layer.layer import Layer
from ocifs.mount.background import Background
from ocifs.reader import BlobReader


class _Defective(Layer):
    """A layer that raises an unexpected error in the thread."""

    def __init__(self) -> None:
        """Have no blob."""


class _Short(Layer):
    """A layer for which files, threads or memory suffice at the third attempt only; then it proves to be invalid."""

    def __init__(self) -> None:
        self.errors = [OSError(errno.EMFILE, "too many"), ShortageError("no more threads"), InvalidImageError("bad")]

    @property
    def blob(self) -> BlobReader:  # type: ignore[override]
        raise self.errors.pop(0)

    def conclude(self, refuted: str | None = None) -> None:
        """Be refuted."""


def test_a_shortage_ends_nothing() -> None:
    told: Queue[str | None] = Queue()
    Background([_Short()], None, told.put, retry=0.01).start()
    assert told.get(timeout=20) == "bad"


def test_a_defect_ends_the_thread_with_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    told: list[object] = []
    with caplog.at_level(logging.ERROR):
        Background([_Defective()], None, lambda *news: told.append(news)).start()
        deadline = time.monotonic() + 20
        while not caplog.messages and time.monotonic() < deadline:
            time.sleep(0.01)
    assert [message.partition(":")[0] for message in caplog.messages] == ["prefetch"]
    assert "AttributeError" in caplog.messages[0]
    assert told == []
