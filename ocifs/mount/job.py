"""The job of a daemon, sent over a socket with the open files it needs, and the daemon's answer."""

import contextlib
import os
import socket
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol, Self

import msgspec

from ocifs.errors import MountError, OcifsError, ShortageError, printable_path
from ocifs.id_ranges import IdMap
from ocifs.mount.framing import receive_message, send_message
from ocifs.mount.handoff import CacheDirectory, Handoff, PackSource, source_of
from ocifs.mount.mountinfo import mount_at, unmount
from ocifs.mount.options import MountOptions
from ocifs.mount.record import EngineName, from_json, to_json
from ocifs.pool import start
from ocifs.version import __version__

if TYPE_CHECKING:
    from ocifs.image.opening import Image

ANSWER_SECONDS = 60.0
"""Seconds that a daemon may take to mount, and then to answer the kernel."""

_ANSWER_MAX = 64 << 10


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the daemon needs to know."""

    image: str
    digest: str
    mountpoint: str
    rootfs: Handoff
    options: MountOptions
    owner: tuple[int, int] | None = None
    """uid and gid that the fuse engine shows as the owner of every file; None: the owners in the image."""
    bundle: str | None = None
    """Directory of the bundle that the mount is part of."""
    ids: IdMap | None = None
    """How the mount maps the owners in the image, only by the erofs engine; None: not at all."""
    swap: bool = False
    """Whether it replaces an ocifs mount there, which stays attached for processes that use it."""

    @classmethod
    def of(cls, image: "Image", mountpoint: str, options: MountOptions) -> Self:
        """Describe a mount of an opened image."""
        return cls(
            image=image.resolved.name,
            digest=str(image.digest),
            mountpoint=mountpoint,
            rootfs=Handoff.of(image.rootfs, *_hot_files(image, options)),
            options=options,
        )


def _hot_files(image: "Image", options: MountOptions) -> tuple[PackSource | None, CacheDirectory | None]:
    """Return the image's hot pack, and the directory to save one in, and notes of false indexes; None: not needed."""
    if not image.layers:
        return None, None
    store = image.options.store
    cache = None if store.opened is None else CacheDirectory(store.opened.fd, store.max_size)
    if not options.hot_pack:
        return None, None if all(layer.verification.is_verified for layer in image.layers) else cache
    return source_of(image.hot_pack(options.hot_pack)), cache


class MountReply(msgspec.Struct, frozen=True):
    """The daemon's answer after mounting: an error, or how it mounted."""

    engine: EngineName = "fuse"
    reason: str | None = None
    """Why the erofs engine could not mount, if it was tried."""
    error: str | None = None
    exit_code: int = 0
    unfit: str | None = None
    """Why only a daemon of the command itself can mount there."""


class Server(Protocol):
    """What serves a mount: a daemon, or the service. It waits for a job on `socket`."""

    socket: socket.socket
    has_job: bool
    has_mounted: bool

    def kill(self) -> None:
        """Abandon the mount: no job will come, or there is no answer."""

    def stop(self) -> None:
        """Let it unmount what it may have mounted, and wait for that."""

    def last_line(self) -> str:
        """Return why there is no answer."""


def send_job(connection: socket.socket, job: Job) -> None:
    """Send a job with its open files to a daemon."""
    fds = sorted(job.rootfs.fds())
    send_message(connection, to_json((__version__, job, fds)), fds)


def mount(
    server: Server,
    job: Job,
    seconds: float = ANSWER_SECONDS,
    send: Callable[[socket.socket, Job], None] = send_job,
) -> MountReply:
    """Send a job; return the answer once the mount responds as well, each within `seconds`.

    An `unfit` reply has mounted nothing.

    Raises:
        MountError: Mounting failed, or there is no answer in time; nothing is left behind.
    """
    try:
        return _mount(server, job, seconds, send)
    except (KeyboardInterrupt, SystemExit):  # what the caller undoes next must not race with the daemon
        server.stop()
        raise


def _mount(server: Server, job: Job, seconds: float, send: Callable[[socket.socket, Job], None]) -> MountReply:
    server.has_job = True
    server.socket.settimeout(seconds)
    answer = b""
    try:
        with contextlib.suppress(BrokenPipeError):  # it may have refused the job before it read all of it
            send(server.socket, job)
        answer = server.socket.recv(_ANSWER_MAX)
    except TimeoutError:
        raise _give_up(server, job, seconds) from None
    except OSError:
        pass
    if not answer:
        why = printable_path(server.last_line())
        raise MountError(f"cannot mount on {printable_path(job.mountpoint)}: {why}")
    reply = from_json(answer, MountReply)
    if reply.error is not None:
        error = OcifsError(reply.error)
        error.exit_code = reply.exit_code
        raise error
    if reply.unfit is not None:
        return reply
    if not _is_served(job.mountpoint, seconds):
        raise _give_up(server, job, seconds)
    server.has_mounted = True
    return reply


def _is_served(mountpoint: str, seconds: float) -> bool:
    """Wait until the daemon has answered the kernel; return whether it did in time. Raises OSError if it died."""
    answer: Future[os.stat_result] = Future()
    try:
        start(lambda: _look(mountpoint, answer))
    except ShortageError:  # the daemon has its threads; readers wait for it
        return True
    with contextlib.suppress(TimeoutError):
        answer.result(seconds)
    return answer.done()


def _look(mountpoint: str, answer: "Future[os.stat_result]") -> None:
    try:
        answer.set_result(os.stat(mountpoint))
    except OSError as error:
        answer.set_exception(error)


def _give_up(server: Server, job: Job, seconds: float) -> MountError:
    """End a server that does not answer, and its mount."""
    server.kill()
    mounted = mount_at(job.mountpoint)
    if mounted is not None and mounted.digest == job.digest:
        unmount(job.mountpoint, lazy=True)
    return MountError(
        f"cannot mount on {printable_path(job.mountpoint)}: the daemon did not answer within {seconds:g} s: "
        "check whether something has stopped it, and try again"
    )


def receive_job(connection: socket.socket) -> Job | None:
    """Receive a job, with file descriptors of this process; return None if the sender closed the socket.

    Raises:
        LimitError: This process may not open that many files.
        MountError: The sender has another version of ocifs.
    """
    received = receive_message(connection)
    if received is None:
        return None
    message, fds = received
    version, content, sent = from_json(message, tuple[str, object, list[int]])
    if version != __version__:
        raise MountError(f"the daemon is ocifs {__version__}, the command {version}: run the command again")
    job = msgspec.convert(content, Job, str_keys=True)
    return msgspec.structs.replace(job, rootfs=job.rootfs.renumbered(dict(zip(sent, fds, strict=True))))
