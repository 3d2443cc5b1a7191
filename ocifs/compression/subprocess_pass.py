"""A pass over a gzip blob in a process of its own (`python -m` this module), for blobs in files that are worth one.

Inflating never waits there for the interpreter lock, which the reading of headers holds and rapidgzip asks for at each
piece. No byte is copied: the process inflates into memory that both share, a handful of chunks that are used again
once nobody looks at them. It is a wall as well: what a blob does to a decoder ends that process and no other.
"""

import contextlib
import ctypes
import importlib
import io
import math
import mmap
import os
import resource
import select
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import BinaryIO, Protocol, Self, TypeGuard

from ocifs.compression import Checkpoint, Chunk, Pass
from ocifs.errors import InvalidImageError
from ocifs.reader import FileReader, FileSection, ReaderAt

_WORTH = 16 << 20
"""Bytes of a blob that are inflated in the time that a process needs to start."""

PIECE = 2 << 20
"""Bytes handed over at once: each time costs a tenth of a millisecond."""

_PIECES = 10
"""Shared: one is being filled, some are in use, the others are the lead of the process."""

_COMPLAINT = 4096
"""Bytes of what a process has said in the end, of which the last line is shown."""

_LOOKING = 0.2
"""Seconds without an answer after which the process is looked at, and again and again from then on."""

_STOPPED_MOST = 5.0
"""Seconds that the process may be stopped, as it is along with this one by Ctrl-Z, before it is given up."""

_MEMORY = 2 << 30
"""Bytes of memory that the process may have (RLIMIT_DATA): rapidgzip keeps some 150 for each member of a stream."""

_FILLED = struct.Struct("<BIQI")
"""Number of a chunk, bytes in it, compressed bytes read so far, and how many checkpoints follow.

If no bytes are in it, the stream is at its end, and the checkpoints are all there are, with windows.
"""

_POINT = struct.Struct("<QQBI")
"""start, offset, bits, and how many bytes of a packed window follow."""


class Filling(Pass, Protocol):
    """A pass that puts its bytes where it is told to."""

    def readinto(self, buffer: memoryview) -> int:
        """Put the next bytes into `buffer`; return how many there are, 0 at the end. Raises InvalidImageError."""
        ...


def is_worth_a_process(blob: ReaderAt) -> TypeGuard[FileSection]:
    """Whether a blob can be given to another process, and is so large that it should be."""
    return isinstance(blob, FileSection) and blob.size >= _WORTH


class SubprocessPass:
    """A pass of the class `kind`; one process, which ends with it."""

    restartable = True

    def __init__(self, kind: Callable[[ReaderAt], Filling], blob: FileSection) -> None:
        self.kind = kind
        self.blob = blob
        self.consumed = 0
        self.found: list[Checkpoint] = []
        self._points: list[Checkpoint] = []
        self._stopped_since = math.inf
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            with ExitStack() as stack:
                self._start(stack)
                self._stack = stack.pop_all()
        except OSError as error:  # the pass that is tried next needs less
            raise InvalidImageError(f"no process to inflate in: {error.strerror}") from None
        return self

    def _start(self, stack: ExitStack) -> None:
        shared = stack.enter_context(_memory("chunks"))
        # A pipe would be full at some time, with nobody to read it before the process ends.
        self._complaints = stack.enter_context(_memory("complaints"))
        shared.truncate(_PIECES * PIECE)
        self._chunks = mmap.mmap(shared.fileno(), _PIECES * PIECE)
        stack.callback(delattr, self, "_chunks")  # it lasts as long as somebody has a chunk
        free, self._free = map(stack.enter_context, _pipe())
        readable, filled = map(stack.enter_context, _pipe())
        self._filled = io.BufferedReader(_Watched(readable, self._look))
        fds = [self.blob.fd, *(each.fileno() for each in (shared, free, filled))]
        numbers = map(str, (self.blob.offset, self.blob.size, *fds))
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, self.kind.__module__, self.kind.__name__, *numbers],
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stderr=self._complaints,
        )
        self._process = stack.enter_context(process)
        stack.callback(process.kill)
        free.close()
        filled.close()
        self._free.write(bytes(range(_PIECES)))

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def chunks(self) -> Iterator[Chunk]:
        """Give the uncompressed bytes. Raises InvalidImageError."""
        while len(head := self._filled.read(_FILLED.size)) == _FILLED.size:
            number, size, self.consumed, count = _FILLED.unpack(head)
            try:
                points = list(self._receive(count))
            except struct.error:  # the process has ended in the middle of it
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
            end = self._complaints.seek(0, os.SEEK_END)
            self._complaints.seek(max(end - _COMPLAINT, 0))
            complaint = self._complaints.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise InvalidImageError(complaint or f"inflating ended with status {status}")

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Give what the pass found."""
        return iter(self._points)

    def _status(self) -> int:
        """Wait for the end of the process."""
        while True:
            try:
                return self._process.wait(_LOOKING)
            except subprocess.TimeoutExpired:
                self._look()

    def _look(self) -> None:
        """Raise InvalidImageError if the process was stopped (SIGSTOP), and whatever a blob raises on interrupts."""
        self.blob.pread(1, 0)
        state = None
        with contextlib.suppress(ChildProcessError):  # where SIGCHLD is ignored
            state = os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT)
        now = time.monotonic()
        self._stopped_since = min(self._stopped_since, now) if state and state.si_code == os.CLD_STOPPED else math.inf
        if now - self._stopped_since > _STOPPED_MOST:
            raise InvalidImageError("the process that inflates was stopped")

    def _receive(self, count: int) -> Iterator[Checkpoint]:
        for _ in range(count):
            start, offset, bits, window = _POINT.unpack(self._filled.read(_POINT.size))
            yield Checkpoint(start, offset, bits, self._filled.read(window))

    def _hand_back(self, number: int) -> None:
        with contextlib.suppress(BrokenPipeError, ValueError):  # the process has ended, or the pass has
            self._free.write(bytes([number]))


class _Watched(io.RawIOBase):
    """The end of a pipe to read from; `look` is called about every `_LOOKING` seconds in which nothing comes."""

    def __init__(self, pipe: BinaryIO, look: Callable[[], None]) -> None:
        super().__init__()
        self._pipe = pipe
        self._look = look
        self._poll = select.poll()
        self._poll.register(pipe, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._poll.poll(_LOOKING * 1000):
            self._look()
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
    begin: Callable[[ReaderAt], Filling] = getattr(importlib.import_module(module), kind)
    with begin(FileReader(fd, offset, size)) as reading, os.fdopen(filled, "wb") as telling:
        told = reading.found
        there = 1
        while there and (number := os.read(free, 1)):  # nothing, where the other process has gone
            place = number[0] * PIECE
            there = reading.readinto(chunks[place : place + PIECE])
            points = [] if told is reading.found else reading.found
            told = reading.found
            if not there:
                points = list(reading.checkpoints())
            telling.write(_FILLED.pack(number[0], there, reading.consumed, len(points)))
            telling.writelines(_described(points, windows=not there))
            telling.flush()


def _described(points: Iterable[Checkpoint], *, windows: bool) -> Iterator[bytes]:
    for start, offset, bits, window in points:
        kept = window if windows else b""
        yield _POINT.pack(start, offset, bits, len(kept)) + kept


if __name__ == "__main__":
    try:
        _main()
    except InvalidImageError as error:
        sys.exit(str(error))
