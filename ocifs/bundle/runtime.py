"""Run the container of a bundle with an OCI runtime, runc or crun, in the foreground.

The container's state is in the bundle and is removed with it. Signals are forwarded. PID 1 of a PID namespace does not
receive a signal that it has no handler for (pid_namespaces(7)); if that signal would end any other process, PID 1 gets
SIGKILL here. This module knows nothing of mounts.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

from ocifs.errors import NotFoundError, UnsupportedError, printable_path
from ocifs.process import status_of

RUNTIMES = ("runc", "crun")
"""Runtimes to look up by name, in order of preference."""
_ENDING = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM})
_FORWARDED = _ENDING | {signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP, signal.SIGWINCH}
"""SIGTSTP goes to the command, as in podman: it does not stop `ocifs run`."""
_KILL_AFTER = 3
"""The number of SIGINT or SIGTERM after which a program is killed, even if it handles them."""
_CHECK_INTERVAL = 1.0
"""Seconds between checks whether PID 1 still handles a signal that it was sent."""
_START_CHECKS = 5
"""Checks after which a runtime that has not started the command is killed."""
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None)


def find_runtime(name: str | None) -> str:
    """Return the path of a runtime; of runc, else crun, if `name` is None. Raises NotFoundError."""
    for each in (name,) if name else RUNTIMES:
        if path := shutil.which(each):
            return path
    if name:
        raise NotFoundError(f"runtime {printable_path(name)}: no such program: set --runtime to runc, crun or a path")
    raise NotFoundError("neither runc nor crun is installed: install the Debian package runc or crun")


def check_user_namespaces(sysctl: Path = Path("/proc/sys")) -> None:
    """Check that this machine lets ordinary users make containers. Raises UnsupportedError."""
    for name in ("user/max_user_namespaces", "kernel/unprivileged_userns_clone"):
        with contextlib.suppress(OSError):
            if (sysctl / name).read_text().strip() == "0":
                raise UnsupportedError(
                    f"a rootless container needs a user namespace, which this machine allows only to root: "
                    f"sysctl {name.replace('/', '.')} is 0"
                )


class Container:
    """The container of the bundle `bundle`; its ID is the bundle's name."""

    def __init__(self, runtime: str, bundle: Path, *, systemd: bool = False) -> None:
        """With `systemd`, the runtime asks the user's systemd for a cgroup."""
        self.runtime = runtime
        self.bundle = bundle
        self.systemd = systemd
        self._command = [runtime, "--root", str(bundle / "state"), *(["--systemd-cgroup"] if systemd else [])]

    def run(self, keep_open: Iterable[int] = (), *, stdin: int | None = None) -> int:
        """Run the container until it exits; return its exit status, or 128+N if signal N ended it.

        The kernel kills the runtime if this process ends first. The runtime inherits the descriptors `keep_open`; the
        container does not. `stdin` is as for subprocess.Popen.
        """
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        watched = {signal.SIGCHLD} | {each for each in _FORWARDED if signal.getsignal(each) is not signal.SIG_IGN}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)

        def prepare() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

        command = [*self._command, "run", "--bundle", str(self.bundle), "--pid-file", str(self._pid_file)]
        try:
            with subprocess.Popen(
                [*command, self.bundle.name],
                stdin=stdin,
                pass_fds=tuple(keep_open),
                preexec_fn=prepare,  # noqa: PLW1509 - this process has no threads
            ) as process:
                return self._forward_signals(process, watched)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def delete(self) -> None:
        """Have the runtime kill and delete the container, if it still exists."""
        if (self.bundle / "state" / self.bundle.name).exists():
            subprocess.run([*self._command, "delete", "--force", self.bundle.name], check=False, capture_output=True)

    @property
    def _pid_file(self) -> Path:
        return self.bundle / "pid"

    def _forward_signals(self, process: "subprocess.Popen[bytes]", watched: set[signal.Signals]) -> int:
        """Forward signals until the runtime exits; return its exit status."""
        last_signal, killed, count, checks = None, False, 0, 0
        while (status := process.poll()) is None:
            # Check again after a request to end: a shell with a handler may have become a program without one by exec.
            received = signal.sigtimedwait(watched, _CHECK_INTERVAL) if last_signal else signal.sigwaitinfo(watched)
            if received is not None and received.si_signo != signal.SIGCHLD:
                number = signal.Signals(received.si_signo)
                if received.si_code <= 0:  # the terminal sends its signals to the runtime as well
                    process.send_signal(number)
                if number in _ENDING:
                    last_signal = number
                    count += number in {signal.SIGINT, signal.SIGTERM}
            if killed:  # and the runtime has not noticed
                process.kill()
            elif last_signal:
                pid = self._pid()
                checks += received is None
                if count >= _KILL_AFTER or (_is_unhandled(pid, last_signal) if pid else checks >= _START_CHECKS):
                    _kill(pid, process)
                    killed = True
        if last_signal and killed:
            return 128 + last_signal
        return status if status >= 0 else 128 - status

    def _pid(self) -> int | None:
        """Return the PID of PID 1; None if the runtime has not written it yet: the command may run already."""
        try:
            return int(self._pid_file.read_text())
        except (OSError, ValueError):
            return None


def _is_unhandled(pid: int, number: signal.Signals) -> bool:
    """Whether a process runs, but neither handles, ignores nor blocks a signal (proc_pid_status(5))."""
    try:
        fields = status_of(pid)
    except OSError:
        return False
    # An init such as catatonit blocks signals and reads them from a descriptor.
    masks = int(fields["SigCgt"], 16) | int(fields["SigIgn"], 16) | int(fields["SigBlk"], 16)
    return not fields["State"].startswith(("Z", "X")) and not masks >> (number - 1) & 1


def _kill(pid: int | None, runtime: "subprocess.Popen[bytes]") -> None:
    """Kill PID 1, which ends the container; or the runtime if that has not written the PID."""
    if pid is None:
        runtime.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
