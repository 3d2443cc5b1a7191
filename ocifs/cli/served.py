"""Run a command in a process of the service, for a caller that has handed it over (`ocifs.service.delegation`).

This process takes over the state of the caller, and runs the code of the command line. It prints nothing: the caller
receives the output together with the result. If the command fails, or needs work that is slow or that only the caller
can do, this process undoes its changes, and the caller runs the command itself. So it reports only success and
interrupts, with two exceptions: the errors of `umount`, which are results, and those after a container has run.
"""

import contextlib
import fcntl
import gc
import importlib
import io
import os
import resource
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from types import FrameType
from typing import TYPE_CHECKING

import click
from msgspec.structs import replace

from ocifs.bundle.runtime import Container
from ocifs.cli import verbs
from ocifs.errors import OcifsError
from ocifs.mount import syscalls
from ocifs.mount.framing import receive_message, send_message
from ocifs.mount.job import Job, MountReply
from ocifs.options import Options
from ocifs.service import VERBS
from ocifs.service.caller import DONE, PRINT, RUN, STARTED, STATUS, UNFIT, Caller, packed, root, str_bytes
from ocifs.service.client import Mounter, ServiceConnection, mount_by_service
from ocifs.service.connection import connect
from ocifs.sources.naming import reference_of
from ocifs.store import Build, Kind, Store, StoredFile

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_SECONDS = 10.0
"""Seconds that a caller may take to send its request."""
_GARBAGE = 1_000_000
_ON_DEMAND = (
    "ocifs.bundle.command",
    "ocifs.bundle.config",
    "ocifs.bundle.machine",
    "ocifs.bundle.mount_destinations",
    "ocifs.bundle.origin",
    "ocifs.bundle.plan",
    "ocifs.bundle.runtime_spec",
    "ocifs.bundle.volumes",
    "ocifs.cli.container",
    "ocifs.cli.keeping",
    "ocifs.cli.progress",
    "ocifs.image.opening",
    "ocifs.mount.job",
    "ocifs.mount.overlay",
    "ocifs.report.listing",
    "ocifs.service.protocol",
    "platformdirs",
)
"""Modules that the commands import on demand."""


class UnfitError(Exception):
    """The caller has to run the command itself."""


def load() -> None:
    """Import the modules of the commands, and those that they import on demand."""
    context = click.Context(verbs.cli)
    for verb in VERBS:
        verbs.cli.get_command(context, verb)
    for name in _ON_DEMAND:
        importlib.import_module(name)
    gc.set_threshold(_GARBAGE)


def serve(connection: socket.socket, installed: list[bytes]) -> int:
    """Run the command of a caller with the interpreter `installed`; return the exit status of this process."""
    connection.settimeout(_SECONDS)
    try:
        received = receive_message(connection)
        if received is None:
            return 1
        message, fds = received
        caller = Caller.decode(message, installed)
        _become(caller, fds)
    except (OcifsError, OSError, ValueError) as error:
        send_message(connection, packed([UNFIT, str(error).encode(errors="backslashreplace")]))
        return 1
    connection.settimeout(None)
    printed: list[tuple[int, bytes]] = []
    sys.stdin = io.TextIOWrapper(_NoInput(is_terminal=caller.is_terminal))
    encodings = caller.streams
    sys.stdout = io.TextIOWrapper(_Printed(1, printed), encodings[0], encodings[1], write_through=True)
    sys.stderr = io.TextIOWrapper(_Printed(2, printed), encodings[2], encodings[3], write_through=True)
    mounter = _ServedMounter(connection, printed)
    with contextlib.suppress(BrokenPipeError):  # the caller is gone
        send_message(connection, packed([STARTED, str_bytes(os.getpid())]))
        with mounter.signals.armed():
            status = _run([os.fsdecode(word) for word in caller.arguments], mounter)
        mounter.signals.ignore()
        if status is None:
            send_message(connection, packed([UNFIT]))
        else:
            mounter.print()
            send_message(connection, packed([DONE, str_bytes(status)]))
    return 0


def _become(caller: Caller, fds: list[int]) -> None:
    """Take over the state of the caller; its input stays there. Raises OSError, ValueError."""
    directory, namespace, out, err = fds
    for number, limits in enumerate(caller.limits):
        if resource.getrlimit(number) != limits:
            resource.setrlimit(number, limits)
    if os.fstat(namespace).st_ino != os.stat("/proc/self/ns/mnt").st_ino:
        syscalls.enter_mount_namespace(namespace)
    if root() != caller.root:
        raise ValueError("the command has another root directory than the service")
    os.fchdir(directory)
    for number, fd in enumerate((directory, out, err)):
        os.dup2(fd, number)
    for fd in fds:
        os.close(fd)
    os.umask(caller.umask)
    os.environ.clear()
    os.environb.update(caller.environment)
    time.tzset()
    sys.argv = ["ocifs", *map(os.fsdecode, caller.arguments)]


def _run(arguments: list[str], mounter: "_ServedMounter") -> int | None:
    """Run a command; return its exit status, or None if the caller has to run it."""
    try:
        return verbs.invoke(arguments, mounter)
    except (click.Abort, KeyboardInterrupt) as error:
        return verbs.failed(error)
    except SystemExit as end:  # raised by a signal handler
        return end.code if isinstance(end.code, int) else 1
    except Exception as error:  # noqa: BLE001 - the boundary of the command line
        return verbs.failed(error) if mounter.has_run else None


class _Signals:
    """The signals that the caller forwards, as bytes. Its end interrupts the command like SIGINT."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Raise signals as they arrive."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGIO, self._receive)
        self._arm(os.O_ASYNC)
        try:
            signal.raise_signal(signal.SIGIO)  # signals may have arrived before
            yield
        finally:
            self._arm(0)

    @contextmanager
    def disarmed(self) -> Iterator[None]:
        """Leave further bytes to `wait_for_status`."""
        self._arm(0)
        try:
            yield
        finally:
            self._arm(os.O_ASYNC)

    def _arm(self, flag: int) -> None:
        flags = fcntl.fcntl(self._connection, fcntl.F_GETFL)
        fcntl.fcntl(self._connection, fcntl.F_SETFL, flags & ~os.O_ASYNC | flag)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        try:
            received = self._connection.recv(16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        for each in received or (signal.SIGINT,):
            signal.raise_signal(each)

    def ignore(self) -> None:
        """Ignore signals from now on: the command has ended."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait_for_status(self) -> int:
        """Wait for the exit status of a container: a zero and four bytes, after signals. Raises KeyboardInterrupt."""
        while (first := self._exactly(1)) != STATUS:
            signal.raise_signal(first[0])
        return int.from_bytes(self._exactly(4), "little")

    def _exactly(self, size: int) -> bytes:
        data = self._connection.recv(size, socket.MSG_WAITALL)
        if len(data) < size:
            raise KeyboardInterrupt
        return data


class _ServedMounter(Mounter):
    """Mounts by the service only, and only cached images; the caller runs the containers."""

    def __init__(self, connection: socket.socket, printed: list[tuple[int, bytes]]) -> None:
        self._service = self._daemon = None
        self.has_run = False
        """Whether a container has run, so that the caller cannot run the command again."""
        self.signals = _Signals(connection)
        self._connection = connection
        self._printed = printed

    def kill(self) -> None:
        raise UnfitError

    def mount(self, job: Job) -> MountReply:
        options = job.options
        connection = connect() if options.service and options.engine != "fuse" and not options.survive else None
        if connection is None:
            raise UnfitError
        service = ServiceConnection(connection)
        try:
            reply = mount_by_service(service, job)
        finally:
            service.kill()
        if reply.unfit is not None:
            raise UnfitError
        return reply

    def another(self) -> Mounter:
        return self

    def opening(self, image: str, options: Options) -> Options:
        reference = reference_of(image)
        mode = os.stat(reference.path).st_mode
        if reference.transport == "docker" or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UnfitError  # only the caller sends requests to a registry, and reads input
        store = options.store
        return replace(options, store=_FullStore(store.directory, max_size=store.max_size, warn=store.warn))

    def run(self, container: Container, keep_open: Iterable[int], *, has_input: bool) -> int:
        self.print()
        arguments = [os.fsencode(container.runtime), os.fsencode(container.bundle)]
        flags = [b"1" if each else b"" for each in (container.systemd, has_input)]
        with self.signals.disarmed():
            self.has_run = True
            send_message(self._connection, packed([RUN, *arguments, *flags]), [*keep_open])
            return self.signals.wait_for_status()

    def print(self) -> None:
        """Send the output to the caller, which prints it."""
        for fd, pieces in groupby(self._printed, lambda each: each[0]):
            send_message(self._connection, packed([PRINT, str_bytes(fd), b"".join(data for _, data in pieces)]))
        self._printed.clear()


class _FullStore(Store):
    """A store that already has every entry that a command needs: it builds nothing."""

    def get(
        self,
        kind: Kind,
        subject: str,
        build: Build,
        *,
        anew: bool = False,
        size: int | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> StoredFile:
        entry = None if anew else self.load(kind, subject)
        if entry is None:
            raise UnfitError
        return entry


class _Printed(io.BufferedIOBase):
    """Keeps the output for a descriptor of the caller."""

    def __init__(self, fd: int, printed: list[tuple[int, bytes]]) -> None:
        self._fd = fd
        self._printed = printed

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def writable(self) -> bool:
        return True

    def write(self, data: "ReadableBuffer") -> int:
        copy = bytes(data)
        self._printed.append((self._fd, copy))
        return len(copy)


class _NoInput(io.RawIOBase):
    """The stdin of a command whose input only the caller can read."""

    def __init__(self, *, is_terminal: bool) -> None:
        self._is_terminal = is_terminal

    def fileno(self) -> int:
        return 0

    def isatty(self) -> bool:
        return self._is_terminal

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        raise UnfitError
