"""The template: a process that only forks, so that a worker begins without anything of other mounts.

The keeper has the open files and the jobs of all mounts, among them credentials for registries. The template is forked
from it before it has any, with the modules that workers need, and never runs anything but its loop. It reads no
request: a worker gets its own over a socket. It ends with its keeper, which forks another one if it dies; workers do
not depend on it.
"""

import contextlib
import errno
import gc
import logging
import os
import select
import signal
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Final

from ocifs.mount.framing import send_message

_SECONDS: Final = 10.0
"""Seconds that the template may take to fork, and a worker to read its message."""
_STATUS_SECONDS: Final = 0.5
"""Seconds to wait for the status of a worker that has exited."""
_FORKED: Final = struct.Struct("=ii")
"""An errno or 0, and a PID."""
_ENDED: Final = struct.Struct("=iii")
"""-1, the PID and the wait status of a worker that has ended."""
_ENDED_MARK: Final = -1


class Template:
    """The keeper's side: forks workers, and knows how they ended."""

    def __init__(self, work: Callable[[socket.socket], int]) -> None:
        """Each worker calls `work` with a socket, from which it receives one message. Raises OSError."""
        self._work = work
        self._statuses: dict[int, int] = {}
        self._control = self._fork()

    def fork(self, payload: bytes, fds: Sequence[int]) -> tuple[int, int]:
        """Start a worker with a message; return its PID and pidfd. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours, theirs:
            ours.settimeout(_SECONDS)
            try:
                pid, pidfd = self._forked(theirs)
            except (BrokenPipeError, ConnectionResetError, TimeoutError):  # the template has died
                self._control.close()
                self._control = self._fork()
                pid, pidfd = self._forked(theirs)
            theirs.close()
            with contextlib.suppress(OSError):  # it has died, which its pidfd shows
                send_message(ours, payload, fds)
        return pid, pidfd

    def status_of(self, pid: int) -> int | None:
        """Return the wait status of a worker that has exited; None if its template has died."""
        self._control.settimeout(_STATUS_SECONDS)
        with contextlib.suppress(OSError):
            while pid not in self._statuses:
                data = self._control.recv(_ENDED.size)
                if not data:
                    break
                self._note(data)
        self._control.settimeout(_SECONDS)
        return self._statuses.pop(pid, None)

    def _forked(self, theirs: socket.socket) -> tuple[int, int]:
        """Let the template fork a worker that reads from `theirs`. Raises OSError."""
        socket.send_fds(self._control, [b"\0"], [theirs.fileno()])
        while True:
            data, fds, _, _ = socket.recv_fds(self._control, _ENDED.size, 1, socket.MSG_CMSG_CLOEXEC)
            if not data:
                raise BrokenPipeError
            if len(data) == _FORKED.size:
                break
            self._note(data)
        error, pid = _FORKED.unpack(data)
        if error or not fds:
            error = error or errno.EMFILE  # the kernel drops a descriptor that this process has no number for
            raise OSError(error, os.strerror(error))
        return pid, fds[0]

    def _note(self, data: bytes) -> None:
        _, pid, status = _ENDED.unpack(data)
        self._statuses[pid] = status

    def _fork(self) -> socket.socket:
        """Fork the template; return the socket to it. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gc.collect()
        gc.freeze()  # so that the workers' cycle collectors leave the memory shared
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            try:
                become("ocifs-template", theirs.fileno())
                _serve(theirs, self._work)
            finally:
                os._exit(0)  # the objects of the keeper stay, and close nothing
        theirs.close()
        ours.settimeout(_SECONDS)
        return ours


def _serve(control: socket.socket, work: Callable[[socket.socket], int]) -> None:
    """Fork a worker for each descriptor that arrives, and report each end, until the keeper ends."""
    reading = woken_by_children()
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(reading, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if reading in ready:
            os.read(reading, 4096)
            for pid, status in reaped():
                control.send(_ENDED.pack(_ENDED_MARK, pid, status))
        if control.fileno() in ready:
            data, fds, _, _ = socket.recv_fds(control, 1, 1)
            if not data:
                return
            for fd in fds:
                _fork_worker(control, fd, work)


def _fork_worker(control: socket.socket, fd: int, work: Callable[[socket.socket], int]) -> None:
    try:
        pid = os.fork()
    except OSError as error:
        os.close(fd)
        control.send(_FORKED.pack(error.errno or 0, 0))
        return
    if pid == 0:
        status = 1
        try:
            become("ocifs-worker", fd)
            status = work(socket.socket(fileno=fd))
        finally:
            os._exit(status)
    os.close(fd)
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        os.kill(pid, signal.SIGKILL)
        control.send(_FORKED.pack(error.errno or 0, 0))
        return
    socket.send_fds(control, [_FORKED.pack(0, pid)], [pidfd])
    os.close(pidfd)


def woken_by_children() -> int:
    """Return a descriptor that becomes readable when a child ends."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    return reading


def reaped() -> Iterator[tuple[int, int]]:
    """Yield PID and wait status of each child that has ended."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended


def become(name: str, *keep: int) -> None:
    """Set up a forked process: a name, a session and default signals of its own, no open files but `keep`."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    logging.getLogger().handlers.clear()
    os.setsid()
    name_process(name)
    for below, above in pairwise([2, *sorted(keep), os.sysconf("SC_OPEN_MAX")]):
        os.closerange(below + 1, above)


def name_process(name: str) -> None:
    """Set the name of this process, as `ps` shows it."""
    with contextlib.suppress(OSError):
        comm = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(comm, name.encode())
        finally:
            os.close(comm)
