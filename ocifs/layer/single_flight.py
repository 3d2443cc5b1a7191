"""Single flight: concurrent requests for the same thing load it once. Safe to use from any thread."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
KS = TypeVar("KS", bound=Iterable[Any])


class StillLoading(Exception):  # noqa: N818 - not an error
    """Another thread is still loading the thing after the patience of this one."""


class SingleFlight(Generic[K, V]):
    """Runs one load for each key at a time; other callers wait for it, for at most `patience` seconds."""

    def __init__(self, lock: threading.Lock, patience: float | None = None) -> None:
        self._lock = lock
        self._patience = patience
        self._flights: dict[K, Future[V]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._flights

    def run(
        self, key: K, cached: Callable[[], V | None], keys: Callable[[], KS], load: Callable[[KS], V]
    ) -> tuple[V, bool]:
        """Return the value of `cached`, of the running load for `key`, or of `load`; and whether `load` ran.

        `cached` and `keys` run under the lock. `keys` returns the keys that `load` serves, among them `key`.

        Raises the errors of `load`, to every waiting caller; and `StillLoading` to one that waited too long.
        """
        with self._lock:
            flight = self._flights.get(key)
            if flight is None:
                if (value := cached()) is not None:
                    return value, False
                own: Future[V] = Future()
                served = keys()
                self._flights |= dict.fromkeys(served, own)
        if flight is not None:
            if not wait([flight], self._patience).done:
                raise StillLoading
            return flight.result(), False
        try:
            value = load(served)
        except BaseException as error:
            self._remove(served)
            own.set_exception(error)
            raise
        self._remove(served)
        own.set_result(value)
        return value, True

    def _remove(self, keys: Iterable[K]) -> None:
        with self._lock:
            for key in keys:
                del self._flights[key]
