"""The caller's side of commands that the service runs: hand over a whole command before anything else is imported.

A process of the service that has loaded the modules runs it, with the arguments, environment, directory, terminal,
umask and limits of this process. It sends back the output and the exit status. If the command fails, or needs slow
work, it leaves no changes, and this process runs it itself. So errors and progress come from this process, and
containers are its children.
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
_FAILED = 7
"""The exit status of `MountError`."""
_HEADER = struct.Struct("<II")
_PIECE = 64 << 10


class _LostError(Exception):
    """The process that runs the command is gone."""


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
            return _follow(connection)
        except _LostError:
            for number in forwarded:  # the process died before it could handle the signal
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            os.write(2, b"ocifs: the service has ended while it ran this command: see its log, and try again\n")
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
    """Forward and note the signals that this process does not ignore; return their previous handlers."""

    def forward(number: int, frame: "FrameType | None") -> None:
        forwarded.append(number)
        with contextlib.suppress(OSError):  # the service has ended: `_follow` notices that
            connection.send(bytes([number]), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, forward) for number in heeded}


def _follow(connection: socket.socket) -> int | None:
    """Follow the messages of the service until the command has ended; return its exit status. Raises _LostError."""
    is_started, status, printed = False, None, None
    while True:
        try:
            (kind, *fields), fds = _receive(connection)
        except (OSError, ValueError, _LostError):
            if is_started and status is None:
                raise _LostError from None
            return status  # the process has done nothing, or all but the clean-up
        if kind == STARTED:
            is_started = True
            connection.settimeout(None)
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


def _receive(connection: socket.socket) -> tuple[list[bytes], list[int]]:
    """Receive a message with at most one descriptor. Raises OSError, ValueError, _LostError."""
    size, count = _HEADER.unpack(_exactly(connection, _HEADER.size))
    fds: list[int] = []
    if count:
        _, fds, _, _ = socket.recv_fds(connection, 1, 1, socket.MSG_CMSG_CLOEXEC)
    return unpacked(_exactly(connection, size)), fds


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(min(size - len(data), _PIECE))
        if not piece:
            raise _LostError
        data += piece
    return data
