"""The keeper: it holds the FUSE connections of mounts, and forks a worker for each one.

It has a single thread, which waits for commands, for workers that exit, and for signals, and never for one peer only.
A command that stalls, or sends a malformed request, costs nothing but its connection. The workers continue however the
keeper ends.
"""

import contextlib
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

from ocifs.errors import MountError, OcifsError, printable_path, shortage
from ocifs.mount.framing import Incoming
from ocifs.mount.job import MountReply
from ocifs.mount.record import to_json
from ocifs.service.commands import Commands
from ocifs.service.exporter import Exporter
from ocifs.service.mounts import Mounts
from ocifs.service.protocol import KeeperSettings, Pong, decode_request, peer
from ocifs.service.served import Served
from ocifs.service.span_broker import SpanBroker

MOUNT_SECONDS = 90.0
"""Seconds that a worker may take to mount: longer than a command waits."""

_ADOPT_AGAIN = (2.0, 10.0, 60.0)
"""Seconds after the start: workers that were mounting when the last keeper died have mounted, or given up."""
_IDLE_LOOKS = 2
"""How often to look for idle mounts while one becomes idle."""
_NEXT_IDLE = 0.05
"""Seconds between two idle workers that are replaced: replacing all at once would keep commands waiting."""
_CLIENTS_MAX = 64
_READY = select.POLLIN | select.POLLHUP | select.POLLERR
_ROOT = 0
_log = logging.getLogger(__name__)


class _Client:
    """A connection whose request has not arrived completely, or whose mount is being made."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self.connection = connection
        self.incoming = Incoming()
        self.deadline = deadline
        self.served: Served | None = None


class Keeper:
    """Serves requests until it is stopped, hands over, or, without `listener`, has no mount left."""

    def __init__(
        self,
        mounts: Mounts,
        listener: socket.socket | None,
        settings: KeeperSettings,
        exporter: Exporter | None = None,
        commands: Commands | None = None,
    ) -> None:
        self.mounts = mounts
        self.listener = listener
        self.settings = settings
        self.exporter = exporter
        self._companions = [each for each in (exporter, commands) if each is not None]
        """Processes that run as long as this one."""
        self._since = time.time()
        self._clients: dict[int, _Client] = {}
        self._upgrading: socket.socket | None = None
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._stop = False
        self._adoptions: list[tuple[float, Callable[[], None]]] = []
        """When to look for orphans again, by the monotonic clock."""
        self._next_look = 0.0
        """When to look for idle mounts, by the monotonic clock."""
        if listener is not None and settings.span_cache:
            mounts.broker = SpanBroker(settings.span_cache, self.watch, self.unwatch)

    def run(
        self,
        hand_over: Callable[["Keeper", socket.socket], bool] = lambda keeper, successor: False,
        adopt_orphans: Callable[[], None] | None = None,
    ) -> None:
        """Serve. `hand_over` passes everything to the next keeper, and returns whether that has accepted it.

        `adopt_orphans` adds the mounts of a keeper that has died.
        """
        if adopt_orphans is not None:
            adopt_orphans()
            now = time.monotonic()
            self._adoptions = [(now + seconds, adopt_orphans) for seconds in _ADOPT_AGAIN]
        if self.listener is not None:
            self.listener.settimeout(0)
            self.watch(self.listener.fileno(), self._accept)
        for served in self.mounts:
            self._follow(served)
        wakeup = self._wake_on_signals()
        self.watch(wakeup, lambda: None)
        while not self._stop and (self.listener is not None or self._clients or self.mounts):
            for fd, _ in self._poll.poll(self._milliseconds()):
                if handler := self._handlers.get(fd):
                    handler()
            self._look_at_the_clock()
            if self._upgrading is not None and not self.mounts.are_starting():
                successor, self._upgrading = self._upgrading, None
                with successor:
                    if hand_over(self, successor):
                        return
                    _log.warning("the keeper that wanted to take over has given up")
        self._leave()

    def adopt(self, connection: socket.socket) -> None:
        """Take a connection as a client."""
        connection.settimeout(0)
        fd = connection.fileno()
        self._clients[fd] = _Client(connection, time.monotonic() + self.settings.request_seconds)
        self.watch(fd, lambda: self._receive(fd))

    def watch(self, fd: int, handler: Callable[[], None]) -> None:
        """Call `handler` when `fd` becomes readable or ends."""
        self._handlers[fd] = handler
        self._poll.register(fd, _READY)

    def unwatch(self, fd: int) -> None:
        """Stop watching."""
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def _wake_on_signals(self) -> int:
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

        def stop(number: int, frame: FrameType | None) -> None:
            self._stop = True

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        return reading

    def _milliseconds(self) -> float | None:
        """Return how long nothing is due."""
        due = [client.deadline for client in self._clients.values()]
        due += [when for when, _ in self._adoptions[:1]]
        due += [served.due for served in self.mounts if served.due is not None]
        due += [each.due for each in self._companions if each.due is not None]
        if self.mounts.idle_seconds and any(served.is_awake() for served in self.mounts):
            due.append(self._next_look)
        return max(0.0, min(due) - time.monotonic()) * 1000 + 1 if due else None

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        for fd, client in [*self._clients.items()]:
            if client.deadline <= now:
                if client.served is not None and client.served.is_starting():
                    client.served.kill()  # its exit is noticed like any other
                    client.deadline = now + MOUNT_SECONDS
                elif client.served is not None:
                    self._drop(fd)
                else:
                    self._refuse(fd, MountError(f"no complete request within {self.settings.request_seconds:g} s"))
        if self._adoptions and self._adoptions[0][0] <= now:
            _, adopt_orphans = self._adoptions.pop(0)
            adopt_orphans()
        for companion in self._companions:
            if companion.due is not None and companion.due <= now:
                self._start(companion)
        for served in [*self.mounts]:
            if served.due is not None and served.due <= now:
                served.due = None
                self._restart(served)

        self._look_for_idle(now)

    def _look_for_idle(self, now: float) -> None:
        """Let a dormant worker replace an idle one, if it is time to look for one."""
        if not self.mounts.idle_seconds or self._next_look > now or self._upgrading is not None:
            return
        idle = [served for served in self.mounts if served.is_idle()]
        if idle:
            self._replace_idle(idle[0])
        self._next_look = now + (_NEXT_IDLE if idle[1:] else self.mounts.idle_seconds / _IDLE_LOOKS)

    def _replace_idle(self, served: Served) -> None:
        try:
            pid, pidfd = self.mounts.replace_idle(served)
        except OSError as error:
            shown = printable_path(served.kept.job.mountpoint)
            _log.warning("%s: its idle worker cannot be replaced: %s", shown, error.strerror)
            return

        def ended() -> None:
            self.unwatch(pidfd)
            os.close(pidfd)
            served.retired = None
            self.mounts.template.status_of(pid)  # so that it is not kept

        self.unwatch(pidfd)
        self.watch(pidfd, ended)
        self._follow(served)

    def _leave(self) -> None:
        """Let the mounts continue without a keeper: those without a worker get one, which keeps the device open."""
        self.mounts.remove_ended()
        for served in self.mounts:
            if served.due is not None:
                served.due = None
                self._restart(served)

    def _start(self, companion: Exporter | Commands) -> None:
        """Start a process, and notice its exit."""
        companion.start()
        if (pidfd := companion.pidfd) is not None:

            def ended() -> None:
                self.unwatch(pidfd)
                companion.ended()

            self.watch(pidfd, ended)

    def _accept(self) -> None:
        assert self.listener is not None  # noqa: S101 - its handler
        if len(self._clients) >= _CLIENTS_MAX or self._upgrading is not None:
            time.sleep(0.01)  # they wait in the backlog
            return
        try:
            connection, _ = self.listener.accept()
        except BlockingIOError:
            return
        except OSError as error:  # too many open files: the command gets an answer once there are fewer
            _log.warning("cannot accept a connection: %s", error.strerror)
            time.sleep(0.1)
            return
        try:
            is_root = peer(connection).uid == _ROOT
        except OSError:
            is_root = False
        if not is_root:
            connection.close()
            return
        self.adopt(connection)

    def _receive(self, fd: int) -> None:
        client = self._clients[fd]
        if client.served is not None:
            self._notice_departure(client)
            return
        try:
            while not client.incoming.is_complete:
                if not client.incoming.receive(client.connection):
                    self._drop(fd)
                    return
            payload, fds = client.incoming.take()
        except BlockingIOError:
            return
        except (OcifsError, OSError) as error:
            self._refuse(fd, error)
            return
        self._handle(fd, payload, fds)

    def _notice_departure(self, client: _Client) -> None:
        """Forget a command that has its answer; let the worker undo what it does for one that has gone before."""
        assert client.served is not None  # noqa: S101 - the caller has checked
        try:
            data = client.connection.recv(1)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            return
        if client.served.is_starting():
            self.unwatch(client.connection.fileno())
            client.served.terminate()
        else:
            self._drop(client.connection.fileno())

    def _handle(self, fd: int, payload: bytes, fds: list[int]) -> None:
        client = self._clients[fd]
        served = None
        try:
            request = decode_request(payload)
            if request.request == "mount":
                served = self.mounts.mount(request, fds, client.connection)
            elif request.request == "ping":
                self._pong(client.connection)
            else:
                self._upgrade(fd)
                return
        except (OcifsError, OSError) as error:
            self._refuse(fd, error)
            return
        finally:
            for each in fds if served is None else ():
                with contextlib.suppress(OSError):
                    os.close(each)
        if served is None:
            self._drop(fd)
            return
        client.served = served
        client.deadline = time.monotonic() + MOUNT_SECONDS
        self._follow(served)

    def _pong(self, connection: socket.socket) -> None:
        broker = self.mounts.broker
        pong = Pong(
            pid=os.getpid(),
            mounts=len([*self.mounts]),
            settings=self.settings,
            since=self._since,
            spans=0 if broker is None else broker.own + broker.shared,
            shared_spans=0 if broker is None else broker.shared,
        )
        with contextlib.suppress(OSError):
            connection.send(to_json(pong))

    def _upgrade(self, fd: int) -> None:
        """Remember who takes over, once no mount is being made."""
        if self._upgrading is not None:
            self._refuse(fd, MountError("another upgrade is in progress"))
            return
        self.unwatch(fd)
        self._upgrading = self._clients.pop(fd).connection

    def _refuse(self, fd: int, error: Exception) -> None:
        """Answer a command with an error, if it listens, and close the connection."""
        known = error if isinstance(error, OcifsError) else shortage(error) or MountError(f"service: {error}")
        reply = MountReply(error=str(known), exit_code=known.exit_code)
        with contextlib.suppress(OSError):
            self._clients[fd].connection.send(to_json(reply))
        _log.warning("refused a request: %s", known)
        self._drop(fd)

    def _drop(self, fd: int) -> None:
        self.unwatch(fd)
        client = self._clients.pop(fd)
        client.incoming.close()
        client.connection.close()

    def _follow(self, served: Served) -> None:
        """Notice the exit of a mount's worker."""
        if served.pidfd is not None:
            self.watch(served.pidfd, lambda: self._exited(served))

    def _exited(self, served: Served) -> None:
        assert served.pidfd is not None  # noqa: S101 - it was watched
        self.unwatch(served.pidfd)
        was_starting = served.is_starting()
        why = served.reap(self.mounts.template)
        self._end_of_start(served, f"the worker {why}" if was_starting else None)
        if was_starting:
            served.clear_attached()
            self.mounts.remove(served)
        elif served.has_ended():
            self.mounts.remove(served)
        else:
            served.kill_retired()
            served.note_death(why, self.settings.restart_limit)
            if served.due is None:
                self.mounts.give_up(served)

    def _end_of_start(self, served: Served, error: str | None) -> None:
        """Close the connection of the command that waited for a mount; answer it first if the worker has not."""
        for fd, client in [*self._clients.items()]:
            if client.served is served:
                if error is not None:
                    shown = printable_path(served.kept.job.mountpoint)
                    reply = MountReply(error=f"cannot mount on {shown}: {error}", exit_code=MountError.exit_code)
                    with contextlib.suppress(OSError):
                        client.connection.send(to_json(reply))
                self._drop(fd)

    def _restart(self, served: Served) -> None:
        try:
            self.mounts.start_again(served)
        except OSError as error:
            served.note_death(f"could not be forked: {error.strerror}", self.settings.restart_limit)
            if served.due is None:
                self.mounts.give_up(served)
            return
        self._follow(served)
