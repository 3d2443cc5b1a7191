"""What a daemon does in the background: here only what is computed (tests/mounted/test_registry.py has the rest)."""

import logging
import time

import pytest

from ocifs.layer.layer import Layer
from ocifs.mount.background import Background


class _Defective(Layer):
    """A layer that raises an unexpected error in the thread."""

    def __init__(self) -> None:
        """Have no blob."""


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
