"""The processes that run whole commands for callers (`ocifs.service.delegation`).

One of them has the modules of the command line loaded, waits for callers, and forks a process for each. The keeper
forks this process before it has a mount, and the process ends with the keeper; running commands depend on neither. This
module does not know what a command is.
"""

import contextlib
import gc
import logging
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from ocifs.errors import OcifsError
from ocifs.process import status_of
from ocifs.service.caller import COMMANDS
from ocifs.service.protocol import listen_in, peer
from ocifs.service.template import become, reaped, woken_by_children
from ocifs.trusted_directory import TrustedDirectory

_DELAY: Final = 5.0
"""Seconds before another process is started for one that has ended."""
_AT_ONCE: Final = 64
"""Commands at a time; further callers wait."""
_ROOT: Final = 0
_log = logging.getLogger(__name__)


class CommandLine(NamedTuple):
    """The command line, which is above this package."""

    load: Callable[[], None]
    """Load its modules."""
    serve: Callable[[socket.socket], int]
    """Run a command for the caller at the other end; return the exit status of the process."""


class Commands:
    """The keeper's side: runs the process; its owner watches `pidfd`, and calls `start` when due, and `ended`."""

    def __init__(self, runtime: TrustedDirectory, command_line: CommandLine) -> None:
        self.pidfd: int | None = None
        self.due: float | None = time.monotonic()
        """When to start the process, by the monotonic clock."""
        self._runtime = runtime
        self._command_line = command_line
        self._pid = 0
        self._control: socket.socket | None = None

    def start(self) -> None:
        """Start the process; if that fails, it is due again later."""
        self.due = None
        try:
            listener = listen_in(self._runtime, COMMANDS)
            ours, theirs = socket.socketpair()
            with listener, theirs:
                self._pid = _fork(theirs, listener, self._command_line)
            self._control = ours
            self.pidfd = os.pidfd_open(self._pid)
        except (OcifsError, OSError) as error:
            _log.warning("cannot start the process for commands: %s", error)
            self.due = time.monotonic() + _DELAY

    def ended(self) -> None:
        """Note the end of the process; another one is due."""
        assert self.pidfd is not None  # noqa: S101 - it was watched
        assert self._control is not None  # noqa: S101
        os.close(self.pidfd)
        self._control.close()
        self.pidfd = self._control = None
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        self.due = time.monotonic() + _DELAY


def _fork(control: socket.socket, listener: socket.socket, command_line: CommandLine) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            become("ocifs-commands", control.fileno(), listener.fileno())
            command_line.load()
            gc.collect()
            gc.freeze()
            _serve(control, listener, command_line.serve)
        finally:
            os._exit(0)
    return pid


def _serve(control: socket.socket, listener: socket.socket, serve: Callable[[socket.socket], int]) -> None:
    """Fork a process for each caller, until the keeper ends."""
    ended = woken_by_children()
    commands: set[int] = set()
    listener.settimeout(0)
    while True:
        poll = select.poll()
        for fd in (control.fileno(), ended, *([listener.fileno()] if len(commands) < _AT_ONCE else [])):
            poll.register(fd, select.POLLIN)
        ready = dict(poll.poll())
        if control.fileno() in ready:
            return
        if ended in ready:
            os.read(ended, 4096)
            commands -= {pid for pid, _ in reaped()}
        if listener.fileno() in ready:
            with contextlib.suppress(OSError):
                commands.add(_accept(listener, serve))


def _accept(listener: socket.socket, serve: Callable[[socket.socket], int]) -> int:
    """Fork a process for the next caller; return its PID. Raises OSError."""
    connection, _ = listener.accept()
    with connection:
        caller = peer(connection)
        if caller.uid != _ROOT or _capabilities("self") & ~_capabilities(caller.pid):
            raise PermissionError  # it runs the command with its own rights
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                become("ocifs-command", connection.fileno())
                status = serve(connection)
            finally:
                os._exit(status)
        return pid


def _capabilities(pid: int | Literal["self"]) -> int:
    """Return the effective capabilities of a process (proc_pid_status(5)). Raises OSError."""
    return int(status_of(pid)["CapEff"], 16)
