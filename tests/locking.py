"""Another process that holds a lock, and can be stopped, continued and killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

_HOLD = """
import fcntl, os, sys

fd = os.open(sys.argv[1], os.O_RDONLY if os.path.isdir(sys.argv[1]) else os.O_RDWR | os.O_CREAT, 0o600)
getattr(fcntl, sys.argv[2])(fd, fcntl.LOCK_EX)
print(flush=True)
for line in sys.stdin:
    os.write(fd, line.encode())
"""


class Holder:
    """Holds the lock on a file, which it creates if it is missing, or on a directory."""

    def __init__(self, path: Path, *, of_process: bool = False) -> None:
        take = "lockf" if of_process else "flock"
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", _HOLD, path, take], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._process.communicate()

    @property
    def pid(self) -> int:
        return self._process.pid

    def write(self) -> None:
        """Let it write to the file."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"progress\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        """Stop it, and wait until it is stopped."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def kill(self) -> None:
        self._process.kill()


def waits_for(pid: int, path: Path) -> bool:
    """Whether a process has opened a file."""
    try:
        return any(os.readlink(f"/proc/{pid}/fd/{fd}") == str(path) for fd in os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return False
