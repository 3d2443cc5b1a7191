"""The process of a daemon, started before anything else is done, so that it gets ready meanwhile.

The daemon is a new program, not a fork: it maps the tree image, is given the open files it reads, and holds nothing of
what indexing needed. It waits for a job to come through its socket; if none does it ends, and nothing was mounted. This
module knows nothing of jobs, and imports next to nothing.
"""

import contextlib
import os
import socket
import subprocess
import sys
from types import TracebackType
from typing import Self

_COMPLAINT_MAX = 64 << 10
_PARTING = 10.0
"""Seconds that a daemon is given to end."""
_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(2 << 20),
}
"""glibc, keep the memory of a span for the next one, which costs no page faults; but in one place, so that what the
threads free is not kept for each of them apart."""


class Daemon:
    """A daemon that waits for its job. A context manager: at its end, a daemon that has none ends."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        self._complaints = os.memfd_create("ocifs-complaints")
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ocifs.mount.daemon", str(theirs.fileno())],
                stdin=self._complaints,  # /dev/null may be missing, as it is where there is no /dev/fuse
                stdout=self._complaints,
                stderr=self._complaints,
                cwd="/",
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env=os.environ | _ENVIRONMENT,
            )
        self.has_job = False
        self.has_mounted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()
        os.close(self._complaints)
        if not self.has_job:
            self.dismiss()
        elif not self.has_mounted:  # it has failed, or nothing waits for its answer any more
            self.stop()
        self._process.returncode = 0  # if it has a mount it outlives this process: there is nothing to wait for

    def dismiss(self) -> None:
        """End it: no job will come, or it does not answer."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a disk that does not answer keeps it for the moment
            self._process.wait(_PARTING)

    def stop(self) -> None:
        """Have it unmount what it may have mounted, and wait for its end."""
        self._process.terminate()
        self._wait()

    def last_words(self) -> str:
        """Wait for the end of a daemon that failed, and return the last line that it wrote, or its exit status."""
        status = self._wait()
        text = os.pread(self._complaints, _COMPLAINT_MAX, 0).decode(errors="surrogateescape").strip()
        return text.rpartition("\n")[2] or f"the daemon ended with status {status}"

    def _wait(self) -> int | None:
        """Wait for a daemon that is about to end, kill it if it does not, and return its exit status."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(_PARTING)
        self.dismiss()
        return self._process.returncode
