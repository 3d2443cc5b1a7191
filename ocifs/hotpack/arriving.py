"""A file that arrives in order, in one request; a read of a part that has not arrived yet waits."""

import os
import threading
from collections.abc import Callable, Iterator

from ocifs.errors import OcifsError, RegistryError
from ocifs.reader import FileReader


class ArrivingFile(FileReader):
    """`size` bytes that `receive` writes to the open file `fd`."""

    def __init__(self, fd: int, size: int) -> None:
        super().__init__(fd, 0, size)
        self.present = 0
        """Bytes that have arrived."""
        self._failure: str | None = None
        self._changed = threading.Condition()

    def receive(self, stream: Callable[[], Iterator[bytes]]) -> bool:
        """Write all pieces of a stream to the file; return whether all of it has arrived. Wakes all readers."""
        try:
            for piece in stream():
                self._write(piece)
        except (OcifsError, OSError) as error:
            self._fail(str(error))
        finally:  # after any error: a reader would wait for ever
            if self.present != self.size:
                self._fail("the registry sent another number of bytes")
        return self.present == self.size

    def pread(self, size: int, offset: int) -> bytes:
        """Wait for up to `size` bytes at `offset` and return them. Raises RegistryError if they will not arrive."""
        end = min(offset + size, self.size)
        with self._changed:
            self._changed.wait_for(lambda: self.present >= end or self._failure is not None)
            if self.present < end:
                raise RegistryError(f"hot pack: {self._failure}")
        return super().pread(size, offset)

    def _write(self, piece: bytes) -> None:
        view = memoryview(piece)[: self.size - self.present]
        position = self.present
        while view:
            written = os.pwrite(self.fd, view, position)
            view, position = view[written:], position + written
        with self._changed:
            self.present = position
            self._changed.notify_all()

    def _fail(self, why: str) -> None:
        with self._changed:
            self._failure = self._failure or why
            self._changed.notify_all()
