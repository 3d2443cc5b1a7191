import pytest

from ocifs.errors import InvalidImageError
from ocifs.mount.complaints import complain


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InvalidImageError("one blob was changed"), "one blob was changed"),
        (OSError(12, "no buffers"), "read: no buffers"),
        (ZeroDivisionError("a defect"), "read"),
    ],
)
def test_a_line_in_the_log(error: Exception, said: str, caplog: pytest.LogCaptureFixture) -> None:
    complain("read", error)
    assert caplog.messages == [said]


def test_a_defect_comes_with_where_it_is(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        divmod(1, 0)
    complain("read", caught.value)
    assert "test_complaints.py" in caplog.text


def test_what_is_said_already_is_not_said_again(caplog: pytest.LogCaptureFixture) -> None:
    for message in ("one cause", "one cause", "another cause", "one cause"):
        complain("read", InvalidImageError(message))
    assert caplog.messages == ["one cause", "another cause"]
