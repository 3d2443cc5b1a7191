"""The command's side: hand a mount to the service if one runs, else to a daemon or a keeper of its own.

The daemon starts, or the connection is made, before the command imports anything; so this module imports next to
nothing.
"""

import contextlib
import socket
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Self

from ocifs.mount.process import Daemon
from ocifs.service.connection import connect, is_allowed

if TYPE_CHECKING:
    from ocifs.bundle.runtime import Container
    from ocifs.mount.job import Job, MountReply
    from ocifs.options import Options

_STOP_SECONDS = 10.0


class ServiceConnection:
    """The service as the server of one mount (`ocifs.mount.job.Server`)."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.has_job = False
        self.has_mounted = False

    def kill(self) -> None:
        """Close the connection: the service undoes what it does for it."""
        self.socket.close()

    def stop(self) -> None:
        """Wait until the service has undone what it does for this connection."""
        deadline = time.monotonic() + _STOP_SECONDS
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
            self.socket.settimeout(_STOP_SECONDS)
            while self.socket.recv(4096) and time.monotonic() < deadline:
                pass
        self.socket.close()

    def last_line(self) -> str:
        """Return why there is no answer."""
        return "the service has ended the connection: see its log"


class Mounter:
    """Mounts for one command. As a context manager: at its end, a server without a mount ends."""

    def __init__(self, arguments: list[str]) -> None:
        """Start what the arguments of the command call for. Raises OSError."""
        options = arguments[: arguments.index("--")] if "--" in arguments else arguments
        self._service: ServiceConnection | None = None
        self._daemon: Daemon | None = None
        if is_allowed(arguments) and (connection := connect()) is not None:
            self._service = ServiceConnection(connection)
        elif "--survive" in options:
            self._daemon = Daemon(_single)
        else:
            self._daemon = Daemon()
        self._is_single = self._daemon is not None and "--survive" in options

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._daemon is not None:
            self._daemon.__exit__(*error)
        if self._service is not None:
            self._service.kill()

    def kill(self) -> None:
        """End what has been started: this command mounts nothing, or serves the mount itself."""
        if self._daemon is not None:
            self._daemon.kill()
        if self._service is not None:
            self._service.kill()

    def reap(self) -> bool:
        """Let the system forget a daemon that has exited; return whether there is none, or it has."""
        return self._daemon is None or self._daemon.reap()

    def mount(self, job: "Job") -> "MountReply":
        """Mount by the service, unless it must not, cannot, or does not run; return the answer.

        Raises MountError as `ocifs.mount.job.mount` does.
        """
        from ocifs.mount.job import mount as mount_by

        reason = None
        if self._service is not None:
            if job.options.service and job.options.engine != "fuse":
                reply = mount_by_service(self._service, job)
                if reply.unfit is None:
                    return reply
                reason = reply.unfit
            self._service.kill()
            self._service = None
        survive = job.options.survive
        if self._daemon is None or self._is_single != survive:
            if self._daemon is not None:
                self._daemon.kill()
            self._daemon = Daemon(_single) if survive else Daemon()
        if survive:
            from ocifs.service.protocol import send_mount

            return mount_by(self._daemon, job, send=send_mount)
        reply = mount_by(self._daemon, job)
        if reason is None or reply.reason is not None:
            return reply
        from msgspec.structs import replace

        return replace(reply, reason=reason)

    def another(self) -> "Mounter":
        """Return one for a further mount of the same command."""
        return Mounter([])

    def opening(self, image: str, options: "Options") -> "Options":
        """Return the options to open an image with."""
        return options

    def run(self, container: "Container", keep_open: Iterable[int], *, has_input: bool) -> int:
        """Run a container, as `Container.run`; without input, its stdin is empty."""
        from subprocess import DEVNULL

        return container.run(keep_open, stdin=None if has_input else DEVNULL)


def mount_by_service(service: ServiceConnection, job: "Job") -> "MountReply":
    """Mount by the service; return its answer. Raises MountError as `ocifs.mount.job.mount` does."""
    from msgspec.structs import replace

    from ocifs.errors import MountError
    from ocifs.mount.job import MountReply
    from ocifs.mount.job import mount as mount_by
    from ocifs.mount.record import LOG, runtime_directory
    from ocifs.service.protocol import send_mount

    if job.options.log == str(runtime_directory().path / LOG):  # the service has a log of its own
        job = replace(job, options=replace(job.options, log=None))
    began = time.time()
    try:
        return mount_by(service, job, send=send_mount)
    except MountError:
        if not _is_mounted(job, began):
            raise
    return MountReply(engine="erofs")  # the worker was replaced before it could answer


def _is_mounted(job: "Job", since: float) -> bool:
    from ocifs.mount.record import list_mounts

    return any(
        (each.mountpoint, each.digest, each.state) == (job.mountpoint, job.digest, "mounted") and each.since >= since
        for each in list_mounts()
        if each.kept is not None
    )


def _single(fd: int) -> list[str]:
    """Return the command of a keeper for a single mount."""
    import json

    start = {"what": "single", "settings": {}, "connection": fd}
    return ["ocifs.service.main", json.dumps(start)]
