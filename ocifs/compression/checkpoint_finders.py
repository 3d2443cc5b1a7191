"""Finding the checkpoints of a gzip blob: by rapidgzip where it is installed, else by indexed_gzip.

Both hand over GZIDX, the index format of indexed_gzip, and so agree on what a checkpoint is. rapidgzip inflates on
all cores and gives the bytes as well. indexed_gzip holds the GIL for as long as it works, so it works in a process
of its own (`python -m` this module), next to the pass that inflates here; small blobs are not worth a process.
"""

import importlib.util
import io
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import BinaryIO

from ocifs.compression import CHUNK, SPACING, Checkpoint, evenly
from ocifs.errors import InvalidImageError
from ocifs.reader import FileReader, FileSection, ReaderAt

_SMALL = 4 << 20

# "GZIDX", version, flags, compressed size, uncompressed size, spacing, window size, number of points
_GZIDX_HEADER = struct.Struct("<5sBBQQIII")
# compressed offset (of the first whole byte), uncompressed offset, bits before it, whether a window follows
_GZIDX_POINT = struct.Struct("<QQBB")


class _SeekableFile(io.RawIOBase):
    """A blob as the file object that both libraries want."""

    def __init__(self, blob: ReaderAt) -> None:
        self.blob = blob
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.blob.size}[whence]
        return self.position

    def read(self, size: int = -1) -> bytes:
        data = self.blob.pread(self.blob.size if size < 0 else size, self.position)
        self.position += len(data)
        return data

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def read_gzidx(file: BinaryIO, blob_size: int) -> Iterator[Checkpoint]:
    """Give the checkpoints of a GZIDX file, which ends where the stream does. Raises InvalidImageError."""
    try:
        magic, version, _, _, size, _, window_size, count = _GZIDX_HEADER.unpack(file.read(_GZIDX_HEADER.size))
        points = list(_GZIDX_POINT.iter_unpack(file.read(count * _GZIDX_POINT.size)))
    except struct.error as error:
        raise InvalidImageError(f"GZIDX file: {error}") from None
    if magic != b"GZIDX" or version > 1 or len(points) != count or window_size > 1 << 15:
        raise InvalidImageError("not a GZIDX file of version 0 or 1")
    if not points:
        yield Checkpoint(0, 0)
    for index, (offset, start, bits, has_window) in enumerate(points):
        # Version 0 has no flag: every point but the first has a window.
        window = file.read(window_size) if (has_window if version else index) else b""
        if offset > blob_size or start > size or bits > 7:
            raise InvalidImageError(f"GZIDX file: checkpoint {index} lies outside the blob")
        if start < size or index == 0:
            yield Checkpoint(start, offset - (bits > 0), bits, window)
    yield Checkpoint(size, blob_size)


class IndexedGzipFinder:
    """Runs indexed_gzip over a blob while the caller does something else."""

    def __init__(self, blob: ReaderAt) -> None:
        self.blob = blob
        self.process: subprocess.Popen[bytes] | None = None
        self.found: BinaryIO | None = None

    def start(self) -> None:
        """Begin, in a process where that is worth it and the blob lies in a file."""
        self.found = os.fdopen(os.memfd_create("gzidx"), "w+b")
        blob = self.blob
        if blob.size <= _SMALL or not isinstance(blob, FileSection):
            return
        arguments = [str(number) for number in (blob.fd, blob.offset, blob.size, self.found.fileno())]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, *arguments],
            pass_fds=(blob.fd, self.found.fileno()),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Wait for the end, and give what was found. Raises InvalidImageError."""
        assert self.found is not None, "checkpoints() before start()"  # noqa: S101
        if self.process is None:
            _find(self.blob, self.found)
        else:
            _, complaint = self.process.communicate()
            if self.process.returncode:
                last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
                raise InvalidImageError(f"no checkpoints found: {last or self.process.returncode}")
        self.found.seek(0)
        yield from read_gzidx(self.found, self.blob.size)

    def stop(self) -> None:
        """Leave nothing behind, done or not."""
        if self.process is not None:
            self.process.kill()
            with self.process:
                pass
        if self.found is not None:
            self.found.close()


def _find(blob: ReaderAt, found: BinaryIO) -> None:
    import indexed_gzip

    try:
        with closing(indexed_gzip.IndexedGzipFile(_SeekableFile(blob), spacing=SPACING)) as file:
            file.build_full_index()
            file.export_index(fileobj=found)
    except (indexed_gzip.ZranError, OSError) as error:
        raise InvalidImageError(f"no checkpoints found: {error}") from None
    found.flush()


def rapidgzip_is_installed() -> bool:
    """Whether the optional dependency is there."""
    return importlib.util.find_spec("rapidgzip") is not None


class RapidgzipPass:
    """Inflates on all cores. It takes no padding and no garbage after a member: those need the other pass."""

    restartable = True

    def __init__(self, blob: ReaderAt) -> None:
        import rapidgzip

        self.blob = blob
        self.consumed = 0
        self.file = rapidgzip.RapidgzipFile(_SeekableFile(blob), parallelization=0, chunk_size=SPACING)

    def __enter__(self) -> "RapidgzipPass":
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()

    def chunks(self) -> Iterator[bytes]:
        """Give the uncompressed bytes. Raises InvalidImageError."""
        try:
            while chunk := self.file.read(CHUNK):
                self.consumed = min(self.file.tell_compressed() // 8, self.blob.size)
                yield chunk
        except (ValueError, RuntimeError) as error:
            raise InvalidImageError(f"rapidgzip: {error}") from None

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Give the borders of the chunks that were inflated in parallel."""
        with os.fdopen(os.memfd_create("gzidx"), "w+b") as found:
            self.file.export_index(found)
            found.seek(0)
            yield from evenly(read_gzidx(found, self.blob.size))


if __name__ == "__main__":
    _fd, _offset, _size, _found = map(int, sys.argv[1:])
    _find(FileReader(_fd, _offset, _size), os.fdopen(_found, "wb"))
