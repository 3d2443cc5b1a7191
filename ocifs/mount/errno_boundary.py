"""The boundary for errors of pyfuse3 requests: any failure becomes an errno and one line in the log."""

import errno
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from pyfuse3 import FUSEError

from ocifs.mount.rate_limited_log import log_failure

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
Handler = Callable[Concatenate[S, P], Coroutine[Any, Any, T]]


def answered(handler: Handler[S, P, T]) -> Handler[S, P, T]:
    """Let a request handler fail only with an errno: its own FUSEError, or EIO and a line in the log."""

    @functools.wraps(handler)
    async def answer(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await handler(self, *args, **kwargs)
        except FUSEError:
            raise
        except Exception as error:  # noqa: BLE001 - a defect in one request must not end the mount
            log_failure(handler.__name__, error)
        raise FUSEError(errno.EIO)

    return answer
