"""A time limit for child processes that are stopped (SIGSTOP, Ctrl-Z): no caller waits for one without end."""

import contextlib
import math
import os
import time


class StopLimit:
    """Notices that a child process has been stopped for more than `seconds` without a break.

    Ctrl-Z stops the child along with this process, so a child that continues soon is fine.
    """

    def __init__(self, pid: int, seconds: float = 5.0) -> None:
        self._pid = pid
        self._seconds = seconds
        self._since = math.inf

    def is_exceeded(self) -> bool:
        """Look at the process, which may have ended. Call this periodically."""
        state = None
        with contextlib.suppress(ChildProcessError):  # SIGCHLD is ignored
            state = os.waitid(os.P_PID, self._pid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT)
        now = time.monotonic()
        self._since = min(self._since, now) if state and state.si_code == os.CLD_STOPPED else math.inf
        return now - self._since > self._seconds
