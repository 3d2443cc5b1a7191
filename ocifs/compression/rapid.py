"""A pass over a gzip blob by rapidgzip, in this process: it inflates on all cores, and finds the checkpoints too."""

import importlib.util
import os
from collections.abc import Iterator
from typing import TypeGuard

from ocifs.compression import SPACING, Checkpoint, Chunk, evenly
from ocifs.compression.gzidx import ends_with, read_gzidx
from ocifs.compression.seekable import seekable_file
from ocifs.compression.zstd_frame import window_packer
from ocifs.errors import InvalidImageError
from ocifs.reader import FileSection, ReaderAt

_INFLATING = max(1, (os.cpu_count() or 1) - 1)
"""Threads of rapidgzip; hashing and reading headers keep another processor busy."""

_PIECE = 4 << 20
"""Bytes taken from rapidgzip at once: each time its threads have to wait for the interpreter lock."""

_TELLING = 16 << 20
"""Uncompressed bytes after which rapidgzip is asked again what it has found: each time it tells all of it."""


def rapidgzip_is_installed() -> bool:
    """Whether the optional dependency is there."""
    return importlib.util.find_spec("rapidgzip") is not None


def _is_whole_file(blob: ReaderAt) -> TypeGuard[FileSection]:
    return isinstance(blob, FileSection) and blob.offset == 0 and os.fstat(blob.fd).st_size == blob.size


class RapidgzipPass:
    """Inflates on all cores.

    It takes no padding and no garbage after a member: those need the other pass. Where a stream is cut short, or a few
    bytes follow it, it may end without an error: so where it ended is looked at, and its bytes are believed only once
    the diff ID has proven them.
    """

    restartable = True

    def __init__(self, blob: ReaderAt) -> None:
        import rapidgzip

        self.blob = blob
        self.consumed = 0
        self.found: list[Checkpoint] = []
        self._produced = self._told = 0
        # It reads a file by itself, without the GIL, but only from its beginning to its end.
        source = blob.fd if _is_whole_file(blob) else seekable_file(blob, blob.size)
        try:
            self.file = rapidgzip.RapidgzipFile(source, parallelization=_INFLATING, chunk_size=SPACING)
        except (ValueError, RuntimeError) as error:  # no file descriptor is left to open the blob anew, for instance
            raise InvalidImageError(f"rapidgzip: {error}") from None

    def __enter__(self) -> "RapidgzipPass":
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()

    def chunks(self) -> Iterator[Chunk]:
        """Give the uncompressed bytes. Raises InvalidImageError."""
        while size := self.readinto(piece := memoryview(bytearray(_PIECE))):
            yield piece[:size]

    def readinto(self, buffer: memoryview) -> int:
        """Put the next uncompressed bytes into `buffer`; return how many there are, 0 at the end.

        Raises:
            InvalidImageError: The stream is damaged.
        """
        try:
            size: int = self.file.readinto(buffer)
            self.consumed = min(self.file.tell_compressed() // 8, self.blob.size)
            self._produced += size
            if self._produced - self._told > _TELLING:
                self._told = self._produced
                places = self.file.available_block_offsets()
                self.found = [Checkpoint(start, bit // 8, -bit % 8) for bit, start in places.items()]
        except (ValueError, RuntimeError) as error:
            raise InvalidImageError(f"rapidgzip: {error}") from None
        return size

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Give the borders of the chunks that were inflated in parallel. Raises InvalidImageError."""
        with os.fdopen(os.memfd_create("gzidx"), "w+b") as found:
            try:
                self.file.export_index(found)
            except (ValueError, RuntimeError) as error:  # it is of a stream that was cut
                raise InvalidImageError(f"rapidgzip: {error}") from None
            found.seek(0)
            points = list(evenly(read_gzidx(found, self.blob.size)))
        if not ends_with(self.blob, *points[-2:]):
            raise InvalidImageError("rapidgzip: the stream does not end where the blob does")
        pack = window_packer()
        for point in points:
            yield point._replace(window=pack(point.window))
