"""Finding the checkpoints of a gzip blob: by rapidgzip where it is installed, else by indexed_gzip.

Both hand over GZIDX, the index format of indexed_gzip, and so agree on what a checkpoint is. rapidgzip inflates on
all cores and gives the bytes as well. indexed_gzip holds the GIL for as long as it works, so it works in a process
of its own (`python -m` this module), next to the pass that inflates here; small blobs are not worth a process.
"""

import contextlib
import importlib.util
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import TypeGuard

from ocifs.compression import SPACING, Checkpoint, evenly
from ocifs.compression.gzidx import ends_with, read_gzidx
from ocifs.errors import InvalidImageError, OcifsError
from ocifs.reader import FileReader, FileSection, ReaderAt

_SMALL = 4 << 20
_INFLATING = max(1, (os.cpu_count() or 1) - 1)
"""Threads of rapidgzip; hashing and reading headers keep another processor busy."""

_READ = 4 << 20
"""Bytes taken from rapidgzip at once: each time its threads have to wait for the interpreter lock."""

_TELLING = 16 << 20
"""Uncompressed bytes after which rapidgzip is asked again what it has found: each time it tells all of it."""


class _SeekableFile(io.RawIOBase):
    """A blob, or the first `size` bytes of it, as the file object that both libraries want."""

    def __init__(self, blob: ReaderAt, size: int) -> None:
        self.blob = blob
        self.size = size
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        return self.position

    def read(self, size: int = -1) -> bytes:
        left = max(self.size - self.position, 0)
        data = self.blob.pread(left if size < 0 else min(size, left), self.position)
        self.position += len(data)
        return data

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class IndexedGzipFinder:
    """Runs indexed_gzip over a blob while the caller does something else."""

    def __init__(self, blob: ReaderAt) -> None:
        self.blob = blob
        self.process: subprocess.Popen[bytes] | None = None
        self.found: int | None = None

    def start(self) -> None:
        """Begin, in a process where that is worth it and the blob lies in a file."""
        blob = self.blob
        if blob.size <= _SMALL or not isinstance(blob, FileSection):
            return
        self.found = os.memfd_create("gzidx")
        arguments = [str(number) for number in (blob.fd, blob.offset, blob.size, self.found)]
        with contextlib.suppress(OSError):  # where there is no process to be had, this one does it
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, *arguments],
                pass_fds=(blob.fd, self.found),
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )

    def checkpoints(self, end: int) -> Iterator[Checkpoint]:
        """Wait, and give what was found. The gzip stream ends at `end` in the blob. Raises InvalidImageError."""
        if self.process is not None and end == self.blob.size:
            _, complaint = self.process.communicate()
            if self.process.returncode < 0:
                raise OcifsError(
                    f"the search for checkpoints was ended by signal {-self.process.returncode}: try again"
                )
            if self.process.returncode:
                raise InvalidImageError(complaint.decode(errors="replace").strip().rpartition("\n")[2])
        else:  # indexed_gzip may fail over what follows the stream
            self.stop()
            self.found = os.memfd_create("gzidx")
            _find(self.blob, end, self.found)
        assert self.found is not None  # noqa: S101 - a process has been given one
        with open(self.found, "rb", closefd=False) as found:
            found.seek(0)
            yield from read_gzidx(found, self.blob.size)

    def stop(self) -> None:
        """Leave nothing behind, done or not."""
        if self.process is not None:
            with self.process as process:
                process.kill()
            self.process = None
        if self.found is not None:
            os.close(self.found)
            self.found = None


def _find(blob: ReaderAt, end: int, fd: int) -> None:
    import indexed_gzip

    try:
        with (
            open(fd, "wb", closefd=False) as found,  # the only mode that export_index takes
            contextlib.closing(indexed_gzip.IndexedGzipFile(_SeekableFile(blob, end), spacing=SPACING)) as file,
        ):
            file.build_full_index()
            file.export_index(fileobj=found)
    except (indexed_gzip.ZranError, OSError) as error:
        raise InvalidImageError(f"no checkpoints found: {error}") from None


def _is_whole_file(blob: ReaderAt) -> TypeGuard[FileSection]:
    return isinstance(blob, FileSection) and blob.offset == 0 and os.fstat(blob.fd).st_size == blob.size


def rapidgzip_is_installed() -> bool:
    """Whether the optional dependency is there."""
    return importlib.util.find_spec("rapidgzip") is not None


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
        # It reads a file by itself, without the GIL, but only from its beginning to its end.
        source = blob.fd if _is_whole_file(blob) else _SeekableFile(blob, blob.size)
        try:
            self.file = rapidgzip.RapidgzipFile(source, parallelization=_INFLATING, chunk_size=SPACING)
        except (ValueError, RuntimeError) as error:  # no file descriptor is left to open the blob anew, for instance
            raise InvalidImageError(f"rapidgzip: {error}") from None

    def __enter__(self) -> "RapidgzipPass":
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()

    def chunks(self) -> Iterator[bytes]:
        """Give the uncompressed bytes. Raises InvalidImageError."""
        told = produced = 0
        try:
            while chunk := self.file.read(_READ):
                self.consumed = min(self.file.tell_compressed() // 8, self.blob.size)
                produced += len(chunk)
                if produced - told > _TELLING:
                    told = produced
                    places = self.file.available_block_offsets()
                    self.found = [Checkpoint(start, bit // 8, -bit % 8) for bit, start in places.items()]
                yield chunk
        except (ValueError, RuntimeError) as error:
            raise InvalidImageError(f"rapidgzip: {error}") from None

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
        yield from points


def _main() -> None:
    fd, offset, size, found = map(int, sys.argv[1:])
    try:
        _find(FileReader(fd, offset, size), size, found)
    except InvalidImageError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _main()
