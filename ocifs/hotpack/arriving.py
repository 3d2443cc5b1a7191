"""A file that arrives in order, in one request; a read of a part that has not arrived yet waits.

A reader that could do without the file asks first whether its part arrives soon (`arrives`): a slow or stalled request
then delays it by a second at most, and the readers after it not at all.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator

from ocifs.errors import OcifsError, RegistryError
from ocifs.reader import FileReader

PATIENCE = 1.0
"""Seconds for which a reader waits that could do without the file."""
_NEAR = 1 << 20
"""Bytes. A part that begins within them arrives soon, however slow the request seems to be."""
_STEP = 256 << 10
_STEP_SECONDS = 5.0
"""A request that takes longer for a step than this does not use the link."""


class ArrivingFile(FileReader):
    """`size` bytes that `receive` writes to the open file `fd`. Several processes may write the same bytes to it.

    One that has written all of them marks the file as complete by a longer length (`ocifs.store.sparse`).
    """

    def __init__(self, fd: int, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(fd, 0, size)
        self.present = 0
        """Bytes that have arrived."""
        self.patience = PATIENCE
        """Seconds for which `arrives` may wait."""
        self._failure: str | None = None
        self._changed = threading.Condition()
        self._clock = clock
        self._began = self._stepped = clock()
        self._step = 0
        """What was present at the time `_stepped`."""
        self._received = 0
        self._in_vain = -_NEAR
        """What was present when a reader last waited in vain."""

    def is_complete(self) -> bool:
        """Whether this process or another one has written all of it, and marked it as complete."""
        return os.fstat(self.fd).st_size > self.size

    def is_moving(self) -> bool:
        """Whether it is arriving, and not too slowly to need the link."""
        return self._failure is None and self.present < self.size and self._clock() - self._stepped < _STEP_SECONDS

    def found(self, end: int) -> None:
        """Let readers have the bytes up to `end`, which are in the file already."""
        with self._changed:
            self.present = max(self.present, end)
            self._changed.notify_all()

    def receive(self, stream: Callable[[], Iterator[bytes]]) -> bool:
        """Write the pieces that follow what is present; return whether all of it is there. Wakes all readers."""
        try:
            for piece in stream():
                if self.is_complete():
                    self.found(self.size)
                    break
                self._write(piece)
        except (OcifsError, OSError) as error:
            self._fail(str(error))
        finally:  # after any error: a reader would wait for ever
            if self.present != self.size:
                self._fail("the registry sent another number of bytes")
        return self.present == self.size

    def end(self) -> None:
        """Let no read wait any more."""
        if self.present != self.size:
            self._fail("it has not arrived")

    def arrives(self, size: int, offset: int) -> bool:
        """Whether `size` bytes at `offset` have arrived; wait for a second if they are about to.

        After a wait in vain, wait again only once another MiB has arrived.
        """
        end = min(offset + size, self.size)
        with self._changed:
            if self.present < end and self._is_near(offset):
                self._changed.wait_for(lambda: self.present >= end or self._failure is not None, self.patience)
                if self.present < end:
                    self._in_vain = self.present
            return self.present >= end

    def pread(self, size: int, offset: int) -> bytes:
        """Wait for up to `size` bytes at `offset` and return them. Raises RegistryError if they will not arrive."""
        end = min(offset + size, self.size)
        with self._changed:
            self._changed.wait_for(lambda: self.present >= end or self._failure is not None)
            if self.present < end:
                raise RegistryError(f"hot pack: {self._failure}")
        return super().pread(size, offset)

    def _is_near(self, offset: int) -> bool:
        """Whether the byte at `offset` may arrive within the patience of a reader."""
        if self._failure is not None or self.present < self._in_vain + _NEAR:
            return False
        rate = self._received / max(self._clock() - self._began, 0.001)
        return offset - self.present <= max(_NEAR, rate * self.patience)

    def _write(self, piece: bytes) -> None:
        view = memoryview(piece)[: self.size - self.present]
        self._received += len(view)
        position = self.present
        while view:
            written = os.pwrite(self.fd, view, position)
            view, position = view[written:], position + written
        with self._changed:
            self.present = position
            if position - self._step >= _STEP:
                self._step, self._stepped = position, self._clock()
            self._changed.notify_all()

    def _fail(self, why: str) -> None:
        with self._changed:
            self._failure = self._failure or why
            self._changed.notify_all()
