"""A pass over a gzip blob by rapidgzip, in this process: it inflates on all cores and finds the checkpoints."""

import importlib.util
import os
from collections.abc import Iterator
from typing import TypeGuard

from ocifs.compression import SPACING, Checkpoint, Chunk, Pass, evenly
from ocifs.compression.gzidx import ends_with, read_gzidx
from ocifs.compression.seekable import seekable_file
from ocifs.compression.zstd_frame import window_packer
from ocifs.errors import InvalidImageError
from ocifs.reader import FileSection, ReaderAt

_THREADS = max(1, (os.cpu_count() or 1) - 1)
"""Threads of rapidgzip; hashing and reading headers keep another processor busy."""

_PIECE = 4 << 20
"""Bytes taken from rapidgzip at once: each time its threads wait for the interpreter lock."""

_REPORT_INTERVAL = 32 << 20
"""Uncompressed bytes between updates of `found`: each time rapidgzip returns all its block offsets."""


def rapidgzip_is_installed() -> bool:
    """Whether the optional dependency is installed."""
    return importlib.util.find_spec("rapidgzip") is not None


def _is_whole_file(blob: ReaderAt) -> TypeGuard[FileSection]:
    return isinstance(blob, FileSection) and blob.offset == 0 and os.fstat(blob.fd).st_size == blob.size


class RapidgzipPass(Pass):
    """Inflates on all cores.

    It rejects padding and garbage after a member; the other pass handles those. On a truncated stream, or one with a
    few bytes behind it, rapidgzip may end without an error. So the pass checks where it ended, and the caller uses its
    bytes only once the diff ID has verified them.
    """

    restartable = True

    def __init__(self, blob: ReaderAt) -> None:
        import rapidgzip

        self.blob = blob
        self.consumed = 0
        self.found: list[Checkpoint] = []
        self._produced = self._reported = 0
        # rapidgzip reads a file without the GIL, but only a whole file.
        source = blob.fd if _is_whole_file(blob) else seekable_file(blob, blob.size)
        try:
            self.file = rapidgzip.RapidgzipFile(source, parallelization=_THREADS, chunk_size=SPACING)
        except (ValueError, RuntimeError) as error:  # e.g. no file descriptor is left to open the blob again
            raise InvalidImageError(f"rapidgzip: {error}") from None

    def __exit__(self, *exc: object) -> None:
        self.file.close()

    def chunks(self) -> Iterator[Chunk]:
        """Yield the uncompressed bytes. Raises InvalidImageError."""
        while size := self.readinto(piece := memoryview(bytearray(_PIECE))):
            yield piece[:size]

    def readinto(self, buffer: memoryview) -> int:
        """Write the next uncompressed bytes into `buffer`; return how many, 0 at the end.

        Raises:
            InvalidImageError: The stream is damaged.
        """
        try:
            size: int = self.file.readinto(buffer)
            self.consumed = min(self.file.tell_compressed() // 8, self.blob.size)
            self._produced += size
            if self._produced - self._reported > _REPORT_INTERVAL:
                self._reported = self._produced
                offsets = self.file.available_block_offsets()
                self.found = [Checkpoint(start, bit // 8, -bit % 8) for bit, start in offsets.items()]
        except (ValueError, RuntimeError) as error:
            raise InvalidImageError(f"rapidgzip: {error}") from None
        return size

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Yield the borders of the chunks that rapidgzip inflated in parallel. Raises InvalidImageError."""
        with os.fdopen(os.memfd_create("gzidx"), "w+b") as found:
            try:
                self.file.export_index(found)
            except (ValueError, RuntimeError) as error:  # the stream is truncated
                raise InvalidImageError(f"rapidgzip: {error}") from None
            found.seek(0)
            points = list(evenly(read_gzidx(found, self.blob.size)))
        if not ends_with(self.blob, *points[-2:]):
            raise InvalidImageError("rapidgzip: the stream does not end at the end of the blob")
        pack = window_packer()
        for point in points:
            yield point._replace(window=pack(point.window))
