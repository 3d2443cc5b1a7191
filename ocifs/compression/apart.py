"""The pass of `blocks` in a process of its own (`python -m` this module), for blobs in files that are worth one.

Inflating never waits there for the interpreter lock, which the reading of headers holds, and no byte is copied: the
process inflates into memory that both share, a handful of chunks that are used again once nobody looks at them.
"""

import contextlib
import ctypes
import mmap
import os
import struct
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from typing import BinaryIO, Self, TypeGuard

from ocifs.compression import Checkpoint, Chunk, evenly
from ocifs.compression.blocks import TELLING, Blocks
from ocifs.errors import InvalidImageError
from ocifs.reader import FileReader, FileSection, ReaderAt

_WORTH = 16 << 20
"""Bytes of a blob that are inflated in the time that a process needs to start."""

PIECE = 2 << 20
"""Bytes handed over at once: each time costs a tenth of a millisecond."""

_PIECES = 10
"""Shared: one is being filled, some are in use, the others are the lead of the process."""

_FILLED = struct.Struct("<BIQI")
"""Number of a chunk, bytes in it, compressed bytes read so far, and how many checkpoints follow."""

_POINT = struct.Struct("<QQBI")
"""start, offset, bits, and how many bytes of a packed window follow."""


def is_worth_a_process(blob: ReaderAt) -> TypeGuard[FileSection]:
    """Whether a blob can be given to another process, and is so large that it should be."""
    return isinstance(blob, FileSection) and blob.size >= _WORTH


class PassApart:
    """The pass; one process, which ends with it."""

    restartable = True

    def __init__(self, blob: FileSection) -> None:
        self.blob = blob
        self.consumed = 0
        self.found: list[Checkpoint] = []
        self._points: list[Checkpoint] = []
        self._produced = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            shared = stack.enter_context(os.fdopen(os.memfd_create("chunks"), "w+b", buffering=0))
            shared.truncate(_PIECES * PIECE)
            self._chunks = mmap.mmap(shared.fileno(), _PIECES * PIECE)
            stack.callback(delattr, self, "_chunks")  # it lasts as long as somebody has a chunk
            free, self._free = map(stack.enter_context, _pipe())
            self._filled, filled = map(stack.enter_context, _pipe())
            fds = [self.blob.fd, *(each.fileno() for each in (shared, free, filled))]
            try:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", __name__, *map(str, (self.blob.offset, self.blob.size, *fds))],
                    pass_fds=fds,
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
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
            for _ in range(count):
                start, offset, bits, window = _POINT.unpack(self._filled.read(_POINT.size))
                self._points.append(Checkpoint(start, offset, bits, self._filled.read(window)))
            if len(self._points) - len(self.found) >= TELLING:
                self.found = self._points.copy()
            self._produced += size
            chunk = (ctypes.c_ubyte * size).from_buffer(self._chunks, number * PIECE)
            weakref.finalize(chunk, self._hand_back, number).atexit = False
            yield memoryview(chunk).cast("B")
            del chunk
        _, complaint = self._process.communicate()
        if self._process.returncode:
            said = complaint.decode(errors="replace").strip().rpartition("\n")[2]
            raise InvalidImageError(said or f"inflating ended with status {self._process.returncode}")

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Give the borders that were found, and the end."""
        return evenly(iter([*self._points, Checkpoint(self._produced, self.blob.size)]))

    def _hand_back(self, number: int) -> None:
        with contextlib.suppress(BrokenPipeError, ValueError):  # the process has ended, or the pass has
            self._free.write(bytes([number]))


def _pipe() -> tuple[BinaryIO, BinaryIO]:
    readable, writable = os.pipe()
    return os.fdopen(readable, "rb"), os.fdopen(writable, "wb", buffering=0)


def _main() -> None:
    offset, size, fd, shared, free, filled = map(int, sys.argv[1:])
    chunks = memoryview(mmap.mmap(shared, _PIECES * PIECE))
    with Blocks(FileReader(fd, offset, size)) as blocks, os.fdopen(filled, "wb") as telling:
        told = 0
        while number := os.read(free, 1):  # nothing, where the other process has gone
            place = number[0] * PIECE
            there = blocks.readinto(chunks[place : place + PIECE])
            if not there:
                break
            points, told = blocks.points[told:], len(blocks.points)
            telling.write(_FILLED.pack(number[0], there, blocks.consumed, len(points)))
            for start, offset, bits, window in points:
                telling.write(_POINT.pack(start, offset, bits, len(window)) + window)
            telling.flush()


if __name__ == "__main__":
    try:
        _main()
    except InvalidImageError as error:
        sys.exit(str(error))
