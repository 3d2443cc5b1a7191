"""Running the container of a bundle by an OCI runtime, runc or crun, in the foreground.

The container's state lies in the bundle, so it goes with it. Signals are passed on. A program that is PID 1 of its PID
namespace does not get a signal that it has no handler for (pid_namespaces(7)): what would have ended it anywhere else
ends it here, by SIGKILL. It knows nothing of mounts.
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

_RUNTIMES = ("runc", "crun")
_ENDING = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM})
_PASSED_ON = _ENDING | {signal.SIGUSR1, signal.SIGUSR2}
_ENOUGH = 3
"""After so many SIGINT or SIGTERM a program is killed, whatever it does about them."""
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None)


def find_runtime(name: str | None) -> str:
    """Return the path of a runtime; None: of runc, or else crun. Raises NotFoundError."""
    for each in (name,) if name else _RUNTIMES:
        if path := shutil.which(each):
            return path
    if name:
        raise NotFoundError(f"runtime {printable_path(name)}: no such program: give runc, crun or a path by --runtime")
    raise NotFoundError("neither runc nor crun is there: install the Debian package runc or crun")


def check_user_namespaces(sysctl: Path = Path("/proc/sys")) -> None:
    """Make sure that this machine lets ordinary users have containers. Raises UnsupportedError."""
    for name in ("user/max_user_namespaces", "kernel/unprivileged_userns_clone"):
        with contextlib.suppress(OSError):
            if (sysctl / name).read_text().strip() == "0":
                raise UnsupportedError(
                    f"a rootless container takes a user namespace, which this machine gives to nobody but root: "
                    f"sysctl {name.replace('/', '.')} is 0"
                )


class Container:
    """The container of the bundle `bundle`; its ID is the bundle's name."""

    def __init__(self, runtime: str, bundle: Path) -> None:
        self._bundle = bundle
        self._command = [runtime, "--root", str(bundle / "state")]
        self._asked = 0

    def run(self, keep_open: Iterable[int] = ()) -> int:
        """Run it to its end; return its exit status, 128+N where signal N ended it.

        The runtime is killed if this process ends before it. It inherits the descriptors `keep_open`, which the
        container does not.
        """
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        watched = {signal.SIGCHLD} | {each for each in _PASSED_ON if signal.getsignal(each) is not signal.SIG_IGN}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)

        def prepare() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

        command = [*self._command, "run", "--bundle", str(self._bundle), "--pid-file", str(self._pid_file)]
        try:
            with subprocess.Popen(
                [*command, self._bundle.name],
                pass_fds=tuple(keep_open),
                preexec_fn=prepare,  # noqa: PLW1509 - this process has no threads by now
            ) as process:
                return self._attend(process, watched)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def delete(self) -> None:
        """Kill what is left of it, and have the runtime forget it."""
        if (self._bundle / "state" / self._bundle.name).exists():
            subprocess.run([*self._command, "delete", "--force", self._bundle.name], check=False, capture_output=True)

    @property
    def _pid_file(self) -> Path:
        return self._bundle / "pid"

    def _attend(self, process: "subprocess.Popen[bytes]", watched: set[signal.Signals]) -> int:
        """Wait for the end of the runtime, and pass on the signals that come meanwhile."""
        ended_by = None
        while (status := process.poll()) is None:
            received = signal.sigwaitinfo(watched)
            number = signal.Signals(received.si_signo)
            if number == signal.SIGCHLD:
                continue
            if received.si_code <= 0:  # what the terminal sends the runtime gets by itself
                process.send_signal(number)
            if number in _ENDING and self._has_to_be_killed(number):
                ended_by = number
                self._kill(process)
        if ended_by is not None:
            return 128 + ended_by
        return status if status >= 0 else 128 - status

    def _has_to_be_killed(self, number: signal.Signals) -> bool:
        if number in {signal.SIGINT, signal.SIGTERM}:
            self._asked += 1
        return self._asked >= _ENOUGH or not self._is_heeded(number)

    def _is_heeded(self, number: signal.Signals) -> bool:
        """Whether the container's PID 1 has a handler for a signal, or ignores it on purpose (proc_pid_status(5))."""
        try:
            lines = Path(f"/proc/{self._pid()}/status").read_text(errors="replace").splitlines()
        except (OSError, ValueError):
            return False
        masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigCgt:", "SigIgn:"))]
        return any(mask >> (number - 1) & 1 for mask in masks)

    def _kill(self, process: "subprocess.Popen[bytes]") -> None:
        """Kill PID 1, and with it all of the container; if there is none yet, the runtime."""
        with contextlib.suppress(ProcessLookupError):
            try:
                os.kill(self._pid(), signal.SIGKILL)
            except (OSError, ValueError):
                process.kill()

    def _pid(self) -> int:
        return int(self._pid_file.read_text())
