"""The edge where a FUSE request ends: whatever went wrong becomes an errno and one line in the log."""

import errno
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from pyfuse3 import FUSEError

from ocifs.errors import OcifsError

_log = logging.getLogger(__name__)

_REMEMBERED = 1024
"""Messages; whoever reads on in what is damaged, the kernel's read-ahead too, fills no disk with what was said."""

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
Handler = Callable[Concatenate[S, P], Coroutine[Any, Any, T]]


def answered(handler: Handler[S, P, T]) -> Handler[S, P, T]:
    """Make a handler of requests fail with an errno only: its own, or EIO with a line in the log, once."""

    @functools.wraps(handler)
    async def answer(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await handler(self, *args, **kwargs)
        except FUSEError:
            raise
        except OcifsError as error:
            _say_once(str(error))
        except OSError as error:
            _say_once(f"{handler.__name__}: {error.strerror}")
        except Exception:  # noqa: BLE001 - a defect in one request must not end the mount
            _log.exception("%s", handler.__name__)
        raise FUSEError(errno.EIO)

    return answer


@functools.lru_cache(_REMEMBERED)
def _say_once(message: str) -> None:
    _log.error("%s", message)
