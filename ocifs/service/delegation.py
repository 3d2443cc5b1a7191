"""The caller's side of commands that the service runs: hand over a whole command before anything else is imported.

A process of the service that has loaded the modules runs it, with the arguments, environment, directory, terminal,
umask and limits of this process. It sends back the output and the exit status. If the command fails, or needs slow
work, it leaves no changes, and this process runs it itself. So errors and progress come from this process, and
containers are its children.

No signal is lost: if the process of the service does not react to one, this process ends by it.
"""

import contextlib
import os
import signal
import socket
import struct

from ocifs.service import VERBS
from ocifs.service.caller import COMMANDS, DONE, PRINT, RUN, STARTED, STATUS, Caller, unpacked
from ocifs.service.connection import connect, is_allowed

TYPE_CHECKING = False
if TYPE_CHECKING:  # without an import of typing
    from collections.abc import Callable
    from types import FrameType

    Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_UNWINDING = {"run", "bundle"}
"""Commands that clean up after SIGTERM and SIGHUP, which end others at once."""
_START_SECONDS = 10.0
"""Seconds that the service may take to start a process; then this one runs the command."""
_LOOK_SECONDS = 1.0
_LOOKS = 5
"""So often the process may be found stopped, or without a reaction to a signal, before this one gives up."""
_ENDED = "the service has ended while it ran this command: see its log, and try again"
_FAILED = 7
"""The exit status of `MountError`."""
_HEADER = struct.Struct("<II")
_PIECE = 64 << 10


class _LostError(Exception):
    """The process that runs the command is gone or stopped, or does not react to a signal. The text is for the user."""


class _Watch:
    """Looks after the process that runs the command, whenever that has sent nothing for `_LOOK_SECONDS`."""

    def __init__(self, forwarded: list[int]) -> None:
        self.pid: int | None = None
        """The process, once it has started."""
        self._forwarded = forwarded
        self._unheeded = self._stopped = 0

    def look(self) -> None:
        """Raise _LostError if nothing more can be expected; TimeoutError if the process has not started."""
        if self.pid is None:
            raise TimeoutError
        self._unheeded += bool(self._forwarded)
        self._stopped = self._stopped + 1 if _is_stopped(self.pid) else 0
        if self._unheeded > _LOOKS:
            raise _LostError(f"process {self.pid} of the service does not react to the signal")
        if self._stopped > _LOOKS:
            raise _LostError(
                f"process {self.pid} of the service, which runs this command, is stopped: continue it "
                f"(kill -CONT {self.pid}) or end it, and try again"
            )


def _is_stopped(pid: int) -> bool:
    """Whether a process is stopped (SIGSTOP) or traced."""
    from ocifs.process import stat_of  # only for one that says nothing for a second

    try:
        return stat_of(pid).is_stopped
    except OSError:
        return False


def delegate(verb: str | None, arguments: list[str]) -> int | None:
    """Have the service run a command; return its exit status, or None if this process has to run it itself."""
    if verb not in VERBS or not is_allowed(arguments) or os.geteuid():
        return None
    connection = connect(COMMANDS)
    if connection is None:
        return None
    with connection:
        try:
            connection.settimeout(_START_SECONDS)
            _send(connection, Caller.this(arguments))
        except (OSError, ValueError, AttributeError):  # for example, the directory was removed, or stdout is closed
            return None
        forwarded: list[int] = []
        before = _forward_signals(connection, _ENDING if verb in _UNWINDING else _ENDING[:1], forwarded)
        if verb == "run":  # import while the service works
            import ocifs.bundle.runtime  # noqa: F401
        try:
            if (status := _follow(connection, _Watch(forwarded))) is None:
                _end_by(forwarded)
            return status
        except _LostError as error:
            _end_by(forwarded)
            os.write(2, f"ocifs: {error}\n".encode())
            return _FAILED
        finally:
            for heeded, handler in before.items():
                signal.signal(heeded, handler)


def _send(connection: socket.socket, caller: Caller) -> None:
    """Send the state of this process, with directory, mount namespace, stdout and stderr. Raises OSError."""
    own = []
    try:
        own.append(os.open(".", os.O_PATH | os.O_CLOEXEC))
        own.append(os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))
        message, fds = caller.encode(), [*own, 1, 2]
        connection.sendall(_HEADER.pack(len(message), len(fds)))
        socket.send_fds(connection, [b"\0"], fds)
        connection.sendall(message)
    finally:
        for fd in own:
            os.close(fd)


def _forward_signals(
    connection: socket.socket, numbers: tuple[signal.Signals, ...], forwarded: list[int]
) -> "dict[signal.Signals, Handler]":
    """Forward and note the signals that this process does not ignore; return their previous handlers.

    A signal that comes again ends this process.
    """

    def forward(number: int, frame: "FrameType | None") -> None:
        if number in forwarded:
            _end_by([number])
        forwarded.append(number)
        with contextlib.suppress(OSError):  # the service has ended: `_follow` notices that
            connection.send(bytes([number]), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, forward) for number in heeded}


def _end_by(signals: list[int]) -> None:
    """End this process by the first of some signals, as if it had not handled it."""
    for number in signals:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def _follow(connection: socket.socket, watch: _Watch) -> int | None:
    """Follow the messages of the service until the command has ended; return its exit status. Raises _LostError.

    None: the command did nothing, and this process has to run it.
    """
    is_started, status, printed = False, None, None
    while True:
        try:
            (kind, *fields), fds = _receive(connection, watch)
        except (OSError, ValueError, _LostError) as error:
            if is_started and status is None:
                raise error if isinstance(error, _LostError) else _LostError(_ENDED) from None
            return status  # the process has done nothing, or all but the clean-up
        if kind == STARTED:
            is_started, watch.pid = True, int(fields[0])
            connection.settimeout(_LOOK_SECONDS)
        elif kind == PRINT:
            printed = printed or _print(int(fields[0]), fields[1])
        elif kind == RUN:
            status = _run(fields, fds)
            connection.sendall(STATUS + status.to_bytes(4, "little"))
        elif kind == DONE:
            return printed if printed is not None else int(fields[0])
        else:
            return None


def _print(fd: int, data: bytes) -> int | None:
    """Write the output of the command; return the exit status if that fails."""
    try:
        while data:
            data = data[os.write(fd, data) :]
    except BrokenPipeError:  # the reader has seen enough
        return 0
    except OSError as error:
        os.write(2, f"ocifs: {error.strerror}\n".encode())
        return 1
    return None


def _run(fields: list[bytes], fds: list[int]) -> int:
    """Run a container as a child of this process; return its exit status."""
    from pathlib import Path
    from subprocess import DEVNULL

    from ocifs.bundle.runtime import Container

    runtime, bundle, systemd, has_input = fields
    container = Container(os.fsdecode(runtime), Path(os.fsdecode(bundle)), systemd=bool(systemd))
    try:
        return container.run(fds, stdin=None if has_input else DEVNULL)
    finally:
        for fd in fds:
            os.close(fd)


def _receive(connection: socket.socket, watch: _Watch) -> tuple[list[bytes], list[int]]:
    """Receive a message with at most one descriptor. Raises OSError, ValueError, _LostError."""
    size, count = _HEADER.unpack(_exactly(connection, _HEADER.size, watch))
    fds: list[int] = []
    if count:
        patience = connection.gettimeout()
        connection.settimeout(_START_SECONDS)
        _, fds, _, _ = socket.recv_fds(connection, 1, 1, socket.MSG_CMSG_CLOEXEC)
        connection.settimeout(patience)
    return unpacked(_exactly(connection, size, watch)), fds


def _exactly(connection: socket.socket, size: int, watch: _Watch) -> bytes:
    data = b""
    while len(data) < size:
        try:
            piece = connection.recv(min(size - len(data), _PIECE))
        except TimeoutError:
            watch.look()
            continue
        if not piece:
            raise _LostError(_ENDED)
        data += piece
    return data
