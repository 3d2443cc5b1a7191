"""Start the daemon's process first, so that Python's start and imports overlap with opening the image.

The daemon is a new program, not a fork: it maps the tree image, receives the open files it reads, and holds no memory
of the indexing. It waits for a job on its socket; without one it exits, and nothing is mounted. This module knows
nothing of jobs, and imports next to nothing.
"""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Self

_OUTPUT_MAX = 64 << 10
_EXIT_SECONDS = 10.0
"""Seconds that a daemon may take to exit."""
ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 20),
}
"""Settings for glibc: a decoder gets the memory of the span before, which saves 10 % of its time in page faults, from a
single arena, so that memory freed by one thread is available to all."""


def _daemon(fd: int) -> list[str]:
    return ["ocifs.mount.daemon", str(fd)]


class Daemon:
    """A daemon that waits for its job. As a context manager: at its end, a daemon without a job exits."""

    def __init__(self, command: Callable[[int], list[str]] = _daemon) -> None:
        """Start it with the arguments that `command` returns for the descriptor of its socket."""
        self.socket, theirs = socket.socketpair()
        self._output = os.memfd_create("ocifs-output")
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", *command(theirs.fileno())],
                stdin=self._output,  # /dev/null may be missing, like /dev/fuse
                stdout=self._output,
                stderr=self._output,
                cwd="/",
                pass_fds=(theirs.fileno(),),
                start_new_session=command is not _daemon,  # a daemon leaves it once it has mounted
                env=os.environ | ENVIRONMENT,
            )
        self.has_job = False
        self.has_mounted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()
        os.close(self._output)
        if not self.has_job:
            self.kill()
        elif not self.has_mounted:  # it has failed, or its answer has not been awaited
            self.stop()
        self._process.returncode = 0  # a daemon with a mount outlives this process

    def kill(self) -> None:
        """Kill it: no job will come, or it does not answer."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a disk that does not answer delays its exit
            self._process.wait(_EXIT_SECONDS)

    def reap(self) -> bool:
        """Let the system forget a daemon that has exited; nothing else waits for it while this process lives.

        Return whether it has exited. To be called until then.
        """
        try:
            pid, _ = os.waitpid(self._process.pid, os.WNOHANG)
        except ChildProcessError:  # something else has waited for all children
            return True
        return pid != 0

    def stop(self) -> None:
        """Let it unmount what it may have mounted, and wait for its exit."""
        self._process.terminate()
        self._wait()

    def last_line(self) -> str:
        """Wait for the exit of a failed daemon; return the last line that it wrote, or its exit status."""
        status = self._wait()
        text = os.pread(self._output, _OUTPUT_MAX, 0).decode(errors="surrogateescape").strip()
        return text.rpartition("\n")[2] or f"the daemon ended with status {status}"

    def _wait(self) -> int | None:
        """Wait for a daemon that is exiting, kill it if it does not, and return its exit status."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(_EXIT_SECONDS)
        self.kill()
        return self._process.returncode
