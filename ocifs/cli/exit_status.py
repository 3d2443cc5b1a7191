"""Exit statuses of commands for which 1 is an answer, like diff(1) and grep(1): no failure may use it."""

from collections.abc import Iterator
from contextlib import contextmanager

from ocifs.errors import OcifsError

YES = 0
NO = 1


class SystemFailureError(OcifsError):
    """A system failure, for which other commands exit with 1."""

    exit_code = 74
    """EX_IOERR of sysexits.h."""


@contextmanager
def failures_not_as_no() -> Iterator[None]:
    """Turn failures with exit status 1 into SystemFailureError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        raise SystemFailureError(f"{name}{error.strerror}") from error
    except OcifsError as error:
        if error.exit_code == NO:
            raise SystemFailureError(str(error)) from error
        raise
