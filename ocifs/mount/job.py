"""The job of a daemon, sent over a socket with the open files it needs, and the daemon's answer."""

import array
import contextlib
import os
import socket
from concurrent.futures import Future
from typing import TYPE_CHECKING, Self

import msgspec

from ocifs.errors import MountError, OcifsError, ShortageError, printable_path, too_many_files
from ocifs.mount.handoff import Handoff
from ocifs.mount.mountinfo import mount_at, unmount
from ocifs.mount.options import MountOptions
from ocifs.mount.process import Daemon
from ocifs.mount.record import EngineName, from_json, to_json
from ocifs.pool import start
from ocifs.version import __version__

if TYPE_CHECKING:
    from ocifs.image.opening import Image

ANSWER_SECONDS = 60.0
"""Seconds that a daemon may take to mount, and then to answer the kernel."""

_ANSWER_MAX = 64 << 10
_FDS_AT_ONCE = 250  # the kernel accepts 253 in one message


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

    @classmethod
    def of(cls, image: "Image", mountpoint: str, options: MountOptions) -> Self:
        """Describe a mount of an opened image."""
        return cls(
            image=image.resolved.name,
            digest=str(image.digest),
            mountpoint=mountpoint,
            rootfs=Handoff.of(image.rootfs),
            options=options,
        )


class MountReply(msgspec.Struct, frozen=True):
    """The daemon's answer after mounting: an error, or how it mounted."""

    engine: EngineName = "fuse"
    reason: str | None = None
    """Why the erofs engine could not mount, if it was tried."""
    error: str | None = None
    exit_code: int = 0


def mount(daemon: Daemon, job: Job, seconds: float = ANSWER_SECONDS) -> MountReply:
    """Send a daemon its job; return its answer once the mount responds as well, each within `seconds`.

    Raises:
        MountError: Mounting failed, or the daemon does not answer in time; nothing is left behind.
    """
    try:
        return _mount(daemon, job, seconds)
    except (KeyboardInterrupt, SystemExit):  # what the caller undoes next must not race with the daemon
        daemon.stop()
        raise


def _mount(daemon: Daemon, job: Job, seconds: float) -> MountReply:
    daemon.has_job = True
    daemon.socket.settimeout(seconds)
    try:
        send_job(daemon.socket, job)
        answer = daemon.socket.recv(_ANSWER_MAX)
    except TimeoutError:
        raise _give_up(daemon, job, seconds) from None
    except OSError:
        answer = b""
    if not answer:
        why = printable_path(daemon.last_line())
        raise MountError(f"cannot mount on {printable_path(job.mountpoint)}: {why}")
    reply = from_json(answer, MountReply)
    if reply.error is not None:
        error = OcifsError(reply.error)
        error.exit_code = reply.exit_code
        raise error
    if not _is_served(job.mountpoint, seconds):
        raise _give_up(daemon, job, seconds)
    daemon.has_mounted = True
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


def _give_up(daemon: Daemon, job: Job, seconds: float) -> MountError:
    """End a daemon that does not answer, and its mount."""
    daemon.kill()
    mounted = mount_at(job.mountpoint)
    if mounted is not None and mounted.digest == job.digest:
        unmount(job.mountpoint, lazy=True)
    return MountError(
        f"cannot mount on {printable_path(job.mountpoint)}: the daemon did not answer within {seconds:g} s: "
        "check whether something has stopped it, and try again"
    )


def send_job(connection: socket.socket, job: Job) -> None:
    """Send a job with its open files."""
    fds = sorted(job.rootfs.fds())
    message = to_json((__version__, job, fds))
    connection.sendall(len(message).to_bytes(4, "little"))
    for first in range(0, len(fds), _FDS_AT_ONCE):
        socket.send_fds(connection, [b"\0"], fds[first : first + _FDS_AT_ONCE])
    connection.sendall(message)


def receive_job(connection: socket.socket) -> Job | None:
    """Receive a job, with file descriptors of this process; return None if the sender closed the socket.

    Raises:
        LimitError: This process may not open that many files.
        MountError: The sender has another version of ocifs.
    """
    size = int.from_bytes(_receive(connection, 4), "little")
    if not size:
        return None
    received: list[int] = []
    message = b""
    while len(message) < size:
        data, ancillary, flags, _ = connection.recvmsg(
            size, socket.CMSG_SPACE(_FDS_AT_ONCE * 4), socket.MSG_CMSG_CLOEXEC
        )
        if not data:
            return None
        if flags & socket.MSG_CTRUNC:
            raise too_many_files()
        for _, _, packed in ancillary:
            fds = array.array("i")
            fds.frombytes(packed)
            received += fds
        message += data.lstrip(b"\0")  # each batch of descriptors came with a NUL
    version, content, sent = from_json(message, tuple[str, object, list[int]])
    if version != __version__:
        raise MountError(f"the daemon is ocifs {__version__}, the command {version}: run the command again")
    job = msgspec.convert(content, Job, str_keys=True)
    return msgspec.structs.replace(job, rootfs=job.rootfs.renumbered(dict(zip(sent, received, strict=True))))


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := connection.recv(size - len(data))):
        data += more
    return data
