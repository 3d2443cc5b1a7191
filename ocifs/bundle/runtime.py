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

RUNTIMES = ("runc", "crun")
"""Those that are looked up by name, the preferred one first."""
_ENDING = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM})
_PASSED_ON = _ENDING | {signal.SIGUSR1, signal.SIGUSR2}
_ENOUGH = 3
"""After so many SIGINT or SIGTERM a program is killed, whatever it does about them."""
_LOOK_AGAIN = 1.0
"""Seconds."""
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None)


def find_runtime(name: str | None) -> str:
    """Return the path of a runtime; None: of runc, or else crun. Raises NotFoundError."""
    for each in (name,) if name else RUNTIMES:
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
        asked, killed, times = None, False, 0
        while (status := process.poll()) is None:
            # Asked to end, it is looked at again: a shell may have had a handler until it became another program.
            received = signal.sigtimedwait(watched, _LOOK_AGAIN) if asked else signal.sigwaitinfo(watched)
            if received is not None and received.si_signo != signal.SIGCHLD:
                number = signal.Signals(received.si_signo)
                if received.si_code <= 0:  # what the terminal sends the runtime gets by itself
                    process.send_signal(number)
                if number in _ENDING:
                    asked = number
                    times += number in {signal.SIGINT, signal.SIGTERM}
            if asked and (times >= _ENOUGH or self._is_lost_on_it(asked)):
                self._kill(process)
                killed = True
        if asked and killed:
            return 128 + asked
        return status if status >= 0 else 128 - status

    def _is_lost_on_it(self, number: signal.Signals) -> bool:
        """Whether PID 1 runs, but neither has a handler for a signal nor ignores it on purpose (proc_pid_status(5))."""
        try:
            pid = self._pid()
        except (OSError, ValueError):  # it has not begun
            return True
        try:
            status = Path(f"/proc/{pid}/status").read_text(errors="replace")
        except OSError:
            return False
        # The name of a program may hold any line ending but a newline.
        fields = dict(line.split(":", 1) for line in status.split("\n") if line)
        masks = int(fields["SigCgt"], 16) | int(fields["SigIgn"], 16)
        return not fields["State"].strip().startswith(("Z", "X")) and not masks >> (number - 1) & 1

    def _kill(self, process: "subprocess.Popen[bytes]") -> None:
        """Kill PID 1, and with it all of the container; if there is none yet, the runtime."""
        with contextlib.suppress(ProcessLookupError):
            try:
                os.kill(self._pid(), signal.SIGKILL)
            except (OSError, ValueError):
                process.kill()

    def _pid(self) -> int:
        return int(self._pid_file.read_text())
