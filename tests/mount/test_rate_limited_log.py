import io
import logging

import pytest

from ocifs.errors import InvalidImageError
from ocifs.mount.rate_limited_log import OneLineFormatter, RateLimitedLog


class Clock:
    """Time that passes when a test lets it pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> RateLimitedLog:
    return RateLimitedLog(clock)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InvalidImageError("one blob was changed"), "one blob was changed"),
        (OSError(12, "no buffers"), "read: no buffers"),
        (TimeoutError("too late"), "read: too late"),
        (MemoryError(), "read: out of memory"),
        (ZeroDivisionError("a defect"), "read: ZeroDivisionError: a defect"),
    ],
)
def test_a_line_in_the_log(log: RateLimitedLog, error: Exception, said: str, caplog: pytest.LogCaptureFixture) -> None:
    log.log_failure("read", error)
    assert caplog.messages == [said]


def test_a_defect_comes_with_where_it_is(log: RateLimitedLog, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        divmod(1, 0)
    log.log_failure("read", caught.value)
    assert "test_rate_limited_log.py" in caplog.text


@pytest.mark.parametrize("kind", [InvalidImageError, ZeroDivisionError])
def test_what_was_said_is_said_again_after_ten_minutes_only(
    log: RateLimitedLog, clock: Clock, caplog: pytest.LogCaptureFixture, kind: type[Exception]
) -> None:
    for _ in range(1200):
        clock.now += 1
        log.log_failure("read", kind("one cause"))
        log.log_failure("read", kind("another cause"))
    assert [message.rpartition(": ")[2] for message in caplog.messages] == ["one cause", "another cause"] * 2


def test_a_flood_is_counted(log: RateLimitedLog, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(5000):
        clock.now += 0.001
        log.log_failure("read", InvalidImageError(f"span {number} was changed"))
    assert len(caplog.messages) == 60
    clock.now += 60
    log.log_failure("read", InvalidImageError("span 4999 was changed"))
    assert caplog.messages[60:] == ["4940 more messages were suppressed", "span 4999 was changed"]


def test_no_line_holds_a_control_character() -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(OneLineFormatter("%(levelname)s: %(message)s"))
    error = ValueError("a name: \x1b]0;title\x07\x9b\nforged line")
    forged = {"msg": "%s", "args": ("\x1b[31mred\nforged\udcff\u202e",), "levelname": "ERROR"}
    handler.handle(logging.makeLogRecord(forged))
    handler.handle(logging.makeLogRecord({"msg": "defect", "exc_info": (ValueError, error, None)}))
    text = out.getvalue()
    assert text.startswith("ERROR: \\x1b[31mred\\nforged\\xff\\u202e\n")
    assert "\\x1b]0;title\\x07\\x9b" in text
    assert all(line.isprintable() for line in text.split("\n"))
