"""A pass over a gzip blob in a process of its own (`python -m` this module), for blobs in files that are worth one.

Inflating never waits there for the interpreter lock, which the reading of headers holds and rapidgzip asks for at each
piece. No byte is copied: the process inflates into memory that both share, a handful of chunks that are used again
once nobody looks at them. It is a wall as well: what a blob does to a decoder ends that process and no other.
"""

import contextlib
import ctypes
import importlib
import mmap
import os
import struct
import subprocess
import sys
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


class PassApart:
    """A pass of the class `kind`; one process, which ends with it."""

    restartable = True

    def __init__(self, kind: Callable[[ReaderAt], Filling], blob: FileSection) -> None:
        self.kind = kind
        self.blob = blob
        self.consumed = 0
        self.found: list[Checkpoint] = []
        self._points: list[Checkpoint] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            shared = stack.enter_context(_memory("chunks"))
            # A pipe would be full at some time, with nobody to read it before the process ends.
            self._complaints = stack.enter_context(_memory("complaints"))
            shared.truncate(_PIECES * PIECE)
            self._chunks = mmap.mmap(shared.fileno(), _PIECES * PIECE)
            stack.callback(delattr, self, "_chunks")  # it lasts as long as somebody has a chunk
            free, self._free = map(stack.enter_context, _pipe())
            self._filled, filled = map(stack.enter_context, _pipe())
            fds = [self.blob.fd, *(each.fileno() for each in (shared, free, filled))]
            try:
                numbers = map(str, (self.blob.offset, self.blob.size, *fds))
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", __name__, self.kind.__module__, self.kind.__name__, *numbers],
                    pass_fds=fds,
                    stdin=subprocess.DEVNULL,
                    stderr=self._complaints,
                )
            except OSError as error:  # the pass that is tried next needs none
                raise InvalidImageError(f"no process to inflate in: {error.strerror}") from None
            self._process = stack.enter_context(process)
            stack.callback(process.kill)
            free.close()
            filled.close()
            self._free.write(bytes(range(_PIECES)))
            self._stack = stack.pop_all()
        return self

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
        if status := self._process.wait():
            end = self._complaints.seek(0, os.SEEK_END)
            self._complaints.seek(max(end - _COMPLAINT, 0))
            complaint = self._complaints.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise InvalidImageError(complaint or f"inflating ended with status {status}")

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Give what the pass found."""
        return iter(self._points)

    def _receive(self, count: int) -> Iterator[Checkpoint]:
        for _ in range(count):
            start, offset, bits, window = _POINT.unpack(self._filled.read(_POINT.size))
            yield Checkpoint(start, offset, bits, self._filled.read(window))

    def _hand_back(self, number: int) -> None:
        with contextlib.suppress(BrokenPipeError, ValueError):  # the process has ended, or the pass has
            self._free.write(bytes([number]))


def _memory(name: str) -> BinaryIO:
    return os.fdopen(os.memfd_create(name), "w+b", buffering=0)


def _pipe() -> tuple[BinaryIO, BinaryIO]:
    readable, writable = os.pipe()
    return os.fdopen(readable, "rb"), os.fdopen(writable, "wb", buffering=0)


def _main() -> None:
    module, kind = sys.argv[1:3]
    offset, size, fd, shared, free, filled = map(int, sys.argv[3:])
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
