"""Start a keeper, as the service or as its successor, in a new program: it imports nothing of the command."""

import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final, NoReturn

from ocifs.errors import MountError, OcifsError, printable_path
from ocifs.mount.framing import send_message
from ocifs.mount.job import MountReply
from ocifs.mount.process import ENVIRONMENT
from ocifs.mount.record import from_json, to_json
from ocifs.service.connection import connect
from ocifs.service.main import Start
from ocifs.service.protocol import KeeperSettings, Pong, Request

_READY_SECONDS: Final = 90.0
_STOP_SECONDS: Final = 10.0
_REPLY_MAX: Final = 64 << 10
_PACKAGE: Final = Path(__file__).parents[1]


def run_in_foreground(settings: KeeperSettings) -> NoReturn:
    """Become the keeper. Raises OSError."""
    arguments = _command(Start(what="service", settings=settings))
    os.execve(arguments[0], arguments, os.environ | ENVIRONMENT)  # noqa: S606


def start(settings: KeeperSettings) -> None:
    """Start the service in the background; return once it accepts requests. Raises MountError."""
    _start(Start(what="service", settings=settings))


def upgrade() -> None:
    """Let a keeper of this version take over from the running service. Raises MountError; then that one stays."""
    with _connected() as connection:
        _start(Start(what="successor", settings=KeeperSettings(), connection=connection.fileno()))


def ping() -> Pong:
    """Return the state of the running service. Raises MountError."""
    with _connected() as connection:
        try:
            send_message(connection, to_json(Request(request="ping")))
            answer = connection.recv(_REPLY_MAX)
        except OSError as error:
            raise MountError(f"the service does not answer: {error}") from None
    try:
        return from_json(answer, Pong)
    except ValueError:
        raise MountError(f"the service is of another version: {_error_in(answer)}") from None


def is_outdated(pong: Pong, package: Path = _PACKAGE) -> bool:
    """Whether a module of the package was installed after the service started, which runs what was there before.

    A module's change time (ctime) is that of its installation, whatever modification time an installer gives it.
    """
    return any(path.lstat().st_ctime > pong.since for path in package.rglob("*.py"))


def stop() -> int:
    """Stop the service and return the number of its mounts, which are still served. Raises MountError."""
    pong = ping()
    try:
        process = os.pidfd_open(pong.pid)
    except OSError:
        return pong.mounts
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        poll = select.poll()
        poll.register(process, select.POLLIN)
        if not poll.poll(_STOP_SECONDS * 1000):
            raise MountError(f"the service, process {pong.pid}, does not end: try again, or kill it")
    finally:
        os.close(process)
    return pong.mounts


def _connected() -> socket.socket:
    connection = connect()
    if connection is None:
        raise MountError("no service runs here: start it with `ocifs service`")
    return connection


def _error_in(answer: bytes) -> str:
    try:
        return from_json(answer, MountReply).error or "?"
    except ValueError:
        return "it answers what this one does not know"


def _command(start: Start) -> list[str]:
    return [sys.executable, "-P", "-m", "ocifs.cli.keeper", os.fsdecode(to_json(start))]


def _start(start: Start) -> None:
    """Start a keeper in the background; return once it is ready. Raises MountError."""
    from msgspec.structs import replace

    reading, writing = os.pipe()
    output = os.memfd_create("ocifs-output")
    kept = [writing, *([start.connection] if start.connection >= 0 else [])]
    try:
        process = subprocess.Popen(
            _command(replace(start, ready=writing)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
            cwd="/",
            pass_fds=kept,
            start_new_session=True,
            env=os.environ | ENVIRONMENT,
        )
        os.close(writing)
        answer = _read(reading)
        process.returncode = 0  # it outlives this process
        if answer != "\n":
            raise _failure(answer, os.pread(output, _REPLY_MAX, 0))
    finally:
        os.close(reading)
        os.close(output)


def _read(reading: int) -> str:
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    if not poll.poll(_READY_SECONDS * 1000):
        raise MountError(f"the service is not ready within {_READY_SECONDS:g} s: see its log")
    return os.read(reading, _REPLY_MAX).decode(errors="replace")


def _failure(answer: str, output: bytes) -> OcifsError:
    code, _, message = answer.partition(" ")
    if not message:
        last = output.decode(errors="replace").strip().rpartition("\n")[2]
        return MountError(f"cannot start the service: {printable_path(last) or 'its process ended'}")
    error = OcifsError(message)
    error.exit_code = int(code)
    return error
