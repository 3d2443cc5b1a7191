"""Run commands in processes that fork from one that has imported the command line already.

Most of the processor time of a short command is the start of Python and its imports. A forked process has its own
arguments, environment, standard streams, working directory and umask, ends as Python ends, and saves that time.
It has the limits, the namespaces and the system call filters of the server, not those of the thread that asks for it.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import ocifs
from ocifs.cli.main import main

_NOT_IMPORTED = ("ocifs.explore", "ocifs.mount", "ocifs.service", "ocifs.snapshotter")
"""Parts of ocifs that few commands import: they need libraries that are slow to import, or start threads."""
_READ_AT_START = ("LANG", "LC_", "LD_", "MALLOC_", "PYTHON", "TZ")
"""Beginnings of variables that the interpreter or the C library reads once, when it starts."""
_SERVE = "from tests.cli.fork_server import serve; serve()"
_REPOSITORY = Path(__file__).parents[2]


class Ended(NamedTuple):
    """The end of a command."""

    code: int
    """Its exit status, or the negative number of the signal that killed it."""
    out: bytes
    err: bytes


class ForkServer:
    """The server of this process; it ends with it. Threads may share it."""

    def __init__(self) -> None:
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("OCIFS_", "PYTHONUNBUF"))
        }
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=self._environment,
                cwd=_REPOSITORY,
            )
        atexit.register(self._close)

    def _close(self) -> None:
        self._requests.close()
        self._process.terminate()
        self._process.wait()

    def fits(self, variables: Mapping[str, str]) -> bool:
        """Return whether a process that starts with these variables would start like the server."""
        return _read_at_start(variables) == _read_at_start(self._environment)

    def run(self, arguments: Sequence[str], variables: Mapping[str, str], directory: Path, timeout: float) -> Ended:
        """Run `ocifs` with these arguments to its end, and read its output to the end.

        Raises subprocess.TimeoutExpired after `timeout` seconds, and kills the command.
        """
        request = {"argv": arguments, "environ": dict(variables), "cwd": str(directory), "umask": _umask()}
        ours, theirs = socket.socketpair()
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        nothing = os.open(os.devnull, os.O_RDONLY)
        try:
            with theirs:
                socket.send_fds(self._requests, [b"r"], [nothing, out_end, err_end, theirs.fileno()])
            for file in (nothing, out_end, err_end):
                os.close(file)
            ours.sendall(json.dumps(request).encode() + b"\n")
            ended, (answer, printed, errors) = _read_all([ours.fileno(), out, err], time.monotonic() + timeout)
        finally:
            ours.close()
            os.close(out)
            os.close(err)
        answers = [int(line) for line in answer.split()]
        if len(answers) == 1:
            os.kill(answers[0], signal.SIGKILL)
        if not ended:
            raise subprocess.TimeoutExpired(["ocifs", *arguments], timeout, printed, errors)
        return Ended(answers[1], printed, errors)


@functools.cache
def fork_server() -> ForkServer:
    """Return the server of this process."""
    return ForkServer()


def _read_at_start(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name.startswith(_READ_AT_START)}


def _umask() -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Umask:")]
    return int(line.split()[1], 8)


def _read_all(files: Sequence[int], deadline: float) -> tuple[bool, list[bytes]]:
    """Read all files up to their ends or the deadline; return whether all have ended, and what has been read."""
    read = dict.fromkeys(files, b"")
    with selectors.DefaultSelector() as selector:
        for file in files:
            selector.register(file, selectors.EVENT_READ)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                more = os.read(key.fd, 1 << 16)
                read[key.fd] += more
                if not more:
                    selector.unregister(key.fd)
        return not selector.get_map(), list(read.values())


def _import_commands() -> None:
    for module in pkgutil.walk_packages(ocifs.__path__, "ocifs."):
        if not module.name.startswith(_NOT_IMPORTED):
            importlib.import_module(module.name)
    for name in ("ocifs.service.client", "ocifs.service.delegation", "platformdirs.unix", "rich.console"):
        importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads cannot fork safely"
    gc.freeze()  # the objects so far, which the commands share


def serve() -> None:
    """Fork a process for each request, which runs the command."""
    _import_commands()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the parents of the commands
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        while True:
            _, files, _, _ = socket.recv_fds(requests, 1, 4)
            if not files:
                os._exit(0)
            if os.fork() == 0:
                break
            for file in files:
                os.close(file)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _become_command(files[:3], socket.socket(fileno=files[3]))
    _exit(_status(main))


def _status(run: Callable[[], None]) -> int:
    """Return the exit status of a program that ends by returning or by an exception."""
    try:
        run()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - the end of the program
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _exit(status: int) -> NoReturn:
    """End as Python does, but free no memory: that copies most of the memory of the server first."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError:
        status = 120
    sys.stderr.flush()
    os._exit(status)


def _become_command(streams: Sequence[int], client: socket.socket) -> None:
    """Fork once more: the child returns as the command; this process reports its pid and exit status to the client."""
    with client, client.makefile("rb") as lines:
        request = json.loads(lines.readline())
        if pid := os.fork():
            for file in streams:
                os.close(file)
            client.sendall(b"%d\n" % pid)
            _, status = os.waitpid(pid, 0)
            client.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
            os._exit(0)
    for number, file in enumerate(streams):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environ"])
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    sys.argv[1:] = request["argv"]
