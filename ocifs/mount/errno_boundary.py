"""The edge where a request to pyfuse3 ends: whatever went wrong becomes an errno and one line in the log."""

import errno
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from pyfuse3 import FUSEError

from ocifs.mount.rate_limited_log import complain

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
        except Exception as error:  # noqa: BLE001 - a defect in one request must not end the mount
            complain(handler.__name__, error)
        raise FUSEError(errno.EIO)

    return answer
