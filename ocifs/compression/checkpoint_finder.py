"""Find the checkpoints of a gzip blob with indexed_gzip, if zlib-ng cannot.

indexed_gzip holds the GIL while it works, so Python handles no signal meanwhile. It therefore runs in a separate
process (`python -m` this module), next to the pass that inflates in this one. This process searches only small blobs.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from ocifs.compression import SPACING, Checkpoint
from ocifs.compression.gzidx import read_gzidx
from ocifs.compression.seekable import seekable_file
from ocifs.compression.stop_limit import StopLimit
from ocifs.errors import InvalidImageError, OcifsError
from ocifs.reader import FileReader, FileSection, ReaderAt

_SMALL = 256 << 10
"""Largest blob in bytes searched in this process; even the smallest members then take at most a tenth of a second."""

_POLL_INTERVAL = 0.2
"""Seconds between checks for an interrupt of the caller."""


class IndexedGzipFinder:
    """Runs indexed_gzip over a blob, concurrently with the caller."""

    def __init__(self, blob: ReaderAt, *, most_stopped: float = 5.0) -> None:
        """`most_stopped`: seconds that the process may be stopped."""
        self.blob = blob
        self._most_stopped = most_stopped
        self.process: subprocess.Popen[bytes] | None = None
        self.found: int | None = None
        self._end = blob.size

    def start(self) -> None:
        """Start a process for the search, if the blob is large enough and lies in a file."""
        blob = self.blob
        if blob.size <= _SMALL or not isinstance(blob, FileSection):
            return
        self.found = os.memfd_create("gzidx")
        arguments = [str(number) for number in (blob.fd, blob.offset, self._end, self.found)]
        with contextlib.suppress(OSError):  # without a new process, this one searches
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, *arguments],
                pass_fds=(blob.fd, self.found),
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )

    def checkpoints(self, end: int) -> Iterator[Checkpoint]:
        """Wait for the search and yield its checkpoints; `end` is where the gzip stream ends in the blob.

        Raises InvalidImageError.
        """
        if self.process is not None and end != self._end:  # indexed_gzip may fail on bytes after the stream
            self.stop()
            self._end = end
            self.start()
        if self.process is not None:
            errors = self._wait(self.process)
            if self.process.returncode < 0:
                raise OcifsError(f"signal {-self.process.returncode} ended the search for checkpoints: try again")
            if self.process.returncode:
                raise InvalidImageError(errors.decode(errors="replace").strip().rpartition("\n")[2])
        else:
            self.stop()
            self.found = os.memfd_create("gzidx")
            _find(self.blob, end, self.found)
        assert self.found is not None  # noqa: S101 - `start` opened it with the process
        with open(self.found, "rb", closefd=False) as found:
            found.seek(0)
            yield from read_gzidx(found, self.blob.size)

    def _wait(self, process: "subprocess.Popen[bytes]") -> bytes:
        """Wait for the end of the process; return its standard error. Raises OcifsError if it was stopped (SIGSTOP)."""
        limit = StopLimit(process.pid, self._most_stopped)
        while True:
            try:
                return process.communicate(timeout=_POLL_INTERVAL)[1]
            except subprocess.TimeoutExpired:
                self.blob.pread(1, 0)  # raises if the caller was interrupted
            if limit.is_exceeded():
                raise OcifsError("the search for checkpoints was stopped: try again")

    def stop(self) -> None:
        """End the process and close its file, finished or not."""
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
