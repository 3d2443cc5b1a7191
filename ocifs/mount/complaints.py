"""What is said in the log of a request that failed: one line for each cause, once."""

import functools
import logging

from ocifs.errors import OcifsError

_log = logging.getLogger(__name__)

_REMEMBERED = 1024
"""Messages; whoever reads on in what is damaged, the kernel's read-ahead too, fills no disk with what was said."""


def complain(what: str, error: Exception) -> None:
    """Say why the request `what` failed; a defect of ocifs with where it is."""
    if isinstance(error, OcifsError):
        _say_once(str(error))
    elif isinstance(error, OSError):
        _say_once(f"{what}: {error.strerror}")
    else:
        _log.error("%s", what, exc_info=error)


@functools.lru_cache(_REMEMBERED)
def _say_once(message: str) -> None:
    _log.error("%s", message)
