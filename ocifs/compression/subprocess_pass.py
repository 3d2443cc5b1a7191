"""A pass over a gzip blob in a separate process (`python -m` this module), for large blobs in files.

There, inflating never waits for the interpreter lock, which reading headers holds and rapidgzip takes at each piece.
Nothing copies the bytes: the process inflates into shared memory of a few chunks, each reused once its last reader
has dropped it. The process also isolates the decoder: a blob that crashes it ends no other process.
"""

import contextlib
import ctypes
import importlib
import io
import mmap
import os
import resource
import select
import struct
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import BinaryIO, Protocol, Self, TypeGuard

from ocifs.compression import Checkpoint, Chunk, Pass
from ocifs.compression.stop_limit import StopLimit
from ocifs.errors import InvalidImageError
from ocifs.reader import FileReader, FileSection, ReaderAt

_WORTH = 16 << 20
"""Bytes of a blob that inflate in the time a process takes to start."""

PIECE = 2 << 20
"""Bytes handed over at once: each time costs a tenth of a millisecond."""

_PIECES = 10
"""Pieces of shared memory: one is being filled, some are in use, the process is ahead by the others."""

_ERRORS = 4096
"""Bytes read from the end of the process's standard error; the error message is the last line."""

_POLL_INTERVAL = 0.2
"""Seconds without output between checks of the process."""

_MEMORY = 2 << 30
"""Limit of the process's memory in bytes (RLIMIT_DATA): rapidgzip keeps some 150 for each member of a stream."""

_FILLED = struct.Struct("<BIQI")
"""Number of a chunk, bytes in it, compressed bytes read so far, and how many checkpoints follow.

An empty chunk is the end of the stream; all checkpoints follow it, with windows.
"""

_POINT = struct.Struct("<QQBI")
"""start, offset, bits, and how many bytes of a packed window follow."""


class BufferedPass(Pass, Protocol):
    """A pass that writes its bytes into the caller's buffer."""

    def readinto(self, buffer: memoryview) -> int:
        """Write the next bytes into `buffer`; return how many, 0 at the end. Raises InvalidImageError."""
        ...


def is_large(blob: ReaderAt) -> bool:
    """Whether a blob is large enough for work by other processes, at once or later."""
    return blob.size >= _WORTH


def is_worth_a_process(blob: ReaderAt) -> TypeGuard[FileSection]:
    """Whether another process can read a blob, and the blob is large enough for that."""
    return isinstance(blob, FileSection) and is_large(blob)


class SubprocessPass:
    """Runs a pass of the class `kind` in one process, which ends with this pass."""

    restartable = True

    def __init__(
        self,
        kind: Callable[[ReaderAt], BufferedPass],
        blob: FileSection,
        *,
        most_stopped: float = 5.0,
        untrimmed: bool = False,
    ) -> None:
        """`most_stopped`: seconds that the process may be stopped; Ctrl-Z stops it along with this one."""
        self.kind = kind
        self.blob = blob
        self.untrimmed = untrimmed
        self._most_stopped = most_stopped
        self.consumed = 0
        self.found: list[Checkpoint] = []
        self._points: list[Checkpoint] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            with ExitStack() as stack:
                self._start(stack)
                self._stack = stack.pop_all()
        except OSError as error:  # the next pass needs fewer resources
            raise InvalidImageError(f"cannot start a process to inflate: {error.strerror}") from None
        return self

    def _start(self, stack: ExitStack) -> None:
        shared = stack.enter_context(_memory("chunks"))
        # A pipe could fill up, as this process reads it only after that one has ended.
        self._errors = stack.enter_context(_memory("errors"))
        shared.truncate(_PIECES * PIECE)
        self._chunks = mmap.mmap(shared.fileno(), _PIECES * PIECE)
        stack.callback(delattr, self, "_chunks")  # chunks that are still in use keep the mapping
        free, self._free = map(stack.enter_context, _pipe())
        readable, filled = map(stack.enter_context, _pipe())
        self._filled = io.BufferedReader(_PolledPipe(readable, self._check_process))
        fds = [self.blob.fd, *(each.fileno() for each in (shared, free, filled))]
        numbers = map(str, (self.blob.offset, self.blob.size, *fds))
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, self.kind.__module__, self.kind.__name__, *numbers],
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stderr=self._errors,
        )
        self._process = stack.enter_context(process)
        self._stop_limit = StopLimit(process.pid, self._most_stopped)
        stack.callback(process.kill)
        free.close()
        filled.close()
        self._free.write(bytes(range(_PIECES)))

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def chunks(self) -> Iterator[Chunk]:
        """Yield the uncompressed bytes. Raises InvalidImageError."""
        while len(head := self._filled.read(_FILLED.size)) == _FILLED.size:
            number, size, self.consumed, count = _FILLED.unpack(head)
            try:
                points = list(self._receive(count))
            except struct.error:  # the process ended in the middle of a message
                break
            if not size:
                self._points = points
                break
            self.found = points or self.found
            chunk = (ctypes.c_ubyte * size).from_buffer(self._chunks, number * PIECE)
            weakref.finalize(chunk, self._hand_back, number).atexit = False
            yield memoryview(chunk).cast("B")
            del chunk
        if status := self._status():
            end = self._errors.seek(0, os.SEEK_END)
            self._errors.seek(max(end - _ERRORS, 0))
            message = self._errors.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise InvalidImageError(message or f"inflating ended with status {status}")

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Return the checkpoints from the process."""
        return iter(self._points)

    def _status(self) -> int:
        """Wait for the end of the process; return its exit status."""
        while True:
            try:
                return self._process.wait(_POLL_INTERVAL)
            except subprocess.TimeoutExpired:
                self._check_process()

    def _check_process(self) -> None:
        """Raise InvalidImageError if the process was stopped (SIGSTOP), and what a read of the blob raises."""
        self.blob.pread(1, 0)  # raises if the caller was interrupted
        if self._stop_limit.is_exceeded():
            raise InvalidImageError("the inflating process was stopped")

    def _receive(self, count: int) -> Iterator[Checkpoint]:
        for _ in range(count):
            start, offset, bits, window = _POINT.unpack(self._filled.read(_POINT.size))
            yield Checkpoint(start, offset, bits, self._filled.read(window))

    def _hand_back(self, number: int) -> None:
        with contextlib.suppress(BrokenPipeError, ValueError):  # the process or the pass has ended
            self._free.write(bytes([number]))


class _PolledPipe(io.RawIOBase):
    """The read end of a pipe; calls `check` about every `_POLL_INTERVAL` seconds while no data arrive."""

    def __init__(self, pipe: BinaryIO, check: Callable[[], None]) -> None:
        super().__init__()
        self._pipe = pipe
        self._check = check
        self._poll = select.poll()
        self._poll.register(pipe, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._poll.poll(_POLL_INTERVAL * 1000):
            self._check()
        return os.readv(self._pipe.fileno(), [buffer])


def _memory(name: str) -> BinaryIO:
    return os.fdopen(os.memfd_create(name), "w+b", buffering=0)


def _pipe() -> tuple[BinaryIO, BinaryIO]:
    readable, writable = os.pipe()
    return os.fdopen(readable, "rb"), os.fdopen(writable, "wb", buffering=0)


def _main() -> None:
    module, kind = sys.argv[1:3]
    offset, size, fd, shared, free, filled = map(int, sys.argv[3:])
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY if most == resource.RLIM_INFINITY else min(_MEMORY, most), most))
    chunks = memoryview(mmap.mmap(shared, _PIECES * PIECE))
    begin: Callable[[ReaderAt], BufferedPass] = getattr(importlib.import_module(module), kind)
    with begin(FileReader(fd, offset, size)) as reading, os.fdopen(filled, "wb") as output:
        sent = reading.found
        count = 1
        while count and (number := os.read(free, 1)):  # empty once the other process has ended
            position = number[0] * PIECE
            count = reading.readinto(chunks[position : position + PIECE])
            points = [] if sent is reading.found else reading.found
            sent = reading.found
            if not count:
                points = list(reading.checkpoints())
            output.write(_FILLED.pack(number[0], count, reading.consumed, len(points)))
            output.writelines(_packed(points, windows=not count))
            output.flush()


def _packed(points: Iterable[Checkpoint], *, windows: bool) -> Iterator[bytes]:
    for start, offset, bits, window in points:
        content = window if windows else b""
        yield _POINT.pack(start, offset, bits, len(content)) + content


if __name__ == "__main__":
    try:
        _main()
    except InvalidImageError as error:
        sys.exit(str(error))
