"""Commands whose exit status 1 is an answer, as that of diff(1) and grep(1) is: no failure may look like one."""

from collections.abc import Iterator
from contextlib import contextmanager

from ocifs.errors import OcifsError

YES = 0
NO = 1


class SystemFailureError(OcifsError):
    """What other commands end with 1 for: the system failed."""

    exit_code = 74
    """EX_IOERR of sysexits.h."""


@contextmanager
def answering() -> Iterator[None]:
    """Have failures that would end with 1 end otherwise."""
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
