"""Finding the checkpoints of a gzip blob by indexed_gzip, where zlib-ng cannot.

indexed_gzip holds the GIL for as long as it works, and no signal is handled meanwhile. So it works in a process of its
own (`python -m` this module), next to the pass that inflates here. This process searches only small blobs.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from ocifs.compression import SPACING, Checkpoint
from ocifs.compression.gzidx import read_gzidx
from ocifs.compression.seekable import seekable_file
from ocifs.errors import InvalidImageError, OcifsError
from ocifs.reader import FileReader, FileSection, ReaderAt

_SMALL = 256 << 10
"""Bytes in which even the smallest members take indexed_gzip a tenth of a second."""

_LOOKING = 0.2
"""Seconds between two looks whether the caller was interrupted."""


class IndexedGzipFinder:
    """Runs indexed_gzip over a blob while the caller does something else."""

    def __init__(self, blob: ReaderAt) -> None:
        self.blob = blob
        self.process: subprocess.Popen[bytes] | None = None
        self.found: int | None = None
        self._end = blob.size

    def start(self) -> None:
        """Begin, in a process where that is worth it and the blob lies in a file."""
        blob = self.blob
        if blob.size <= _SMALL or not isinstance(blob, FileSection):
            return
        self.found = os.memfd_create("gzidx")
        arguments = [str(number) for number in (blob.fd, blob.offset, self._end, self.found)]
        with contextlib.suppress(OSError):  # where there is no process to be had, this one does it
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, *arguments],
                pass_fds=(blob.fd, self.found),
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )

    def checkpoints(self, end: int) -> Iterator[Checkpoint]:
        """Wait, and give what was found. The gzip stream ends at `end` in the blob. Raises InvalidImageError."""
        if self.process is not None and end != self._end:  # indexed_gzip may fail over what follows the stream
            self.stop()
            self._end = end
            self.start()
        if self.process is not None:
            complaint = self._said_in_the_end(self.process)
            if self.process.returncode < 0:
                raise OcifsError(
                    f"the search for checkpoints was ended by signal {-self.process.returncode}: try again"
                )
            if self.process.returncode:
                raise InvalidImageError(complaint.decode(errors="replace").strip().rpartition("\n")[2])
        else:
            self.stop()
            self.found = os.memfd_create("gzidx")
            _find(self.blob, end, self.found)
        assert self.found is not None  # noqa: S101 - a process has been given one
        with open(self.found, "rb", closefd=False) as found:
            found.seek(0)
            yield from read_gzidx(found, self.blob.size)

    def _said_in_the_end(self, process: "subprocess.Popen[bytes]") -> bytes:
        while True:
            try:
                return process.communicate(timeout=_LOOKING)[1]
            except subprocess.TimeoutExpired:
                self.blob.pread(1, 0)  # raises where the caller was interrupted

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
            contextlib.closing(indexed_gzip.IndexedGzipFile(seekable_file(blob, end), spacing=SPACING)) as file,
        ):
            file.build_full_index()
            file.export_index(fileobj=found)
    except (indexed_gzip.ZranError, OSError) as error:
        raise InvalidImageError(f"no checkpoints found: {error}") from None


def _main() -> None:
    fd, offset, size, found = map(int, sys.argv[1:])
    try:
        _find(FileReader(fd, offset, size), size, found)
    except InvalidImageError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _main()
