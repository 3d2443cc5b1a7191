import errno

import pyfuse3
import pytest
import trio

from ocifs.errors import InvalidImageError
from ocifs.mount.errno_boundary import answered


class Requests:
    """Handlers that fail in each way."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    @answered
    async def read(self, number: int) -> int:
        if self.error:
            raise self.error
        return number


def answer(requests: Requests) -> int:
    return trio.run(requests.read, 7)


def test_an_answer_is_handed_on() -> None:
    assert answer(Requests()) == 7


@pytest.mark.parametrize(
    ("error", "number", "said"),
    [
        (pyfuse3.FUSEError(errno.ENOENT), errno.ENOENT, None),
        (InvalidImageError("the blob was changed"), errno.EIO, "the blob was changed"),
        (OSError(errno.ENOMEM, "no memory"), errno.EIO, "read: no memory"),
        (ZeroDivisionError("a defect"), errno.EIO, "read: ZeroDivisionError: a defect"),
    ],
)
def test_whatever_went_wrong_is_an_errno_and_a_line_in_the_log(
    error: Exception, number: int, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        answer(Requests(error))
    assert caught.value.errno == number
    assert caplog.messages == ([said] if said else [])


def test_what_is_said_already_is_not_said_again(caplog: pytest.LogCaptureFixture) -> None:
    for message in ("one span", "one span", "another span", "one span"):
        with pytest.raises(pyfuse3.FUSEError):
            answer(Requests(InvalidImageError(message)))
    assert caplog.messages == ["one span", "another span"]
