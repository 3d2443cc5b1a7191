"""The requests to a keeper over its socket, and its replies.

A request is a message of `ocifs.mount.framing` in JSON with a protocol version. Only `mount` carries open files from a
command; between keepers, each mount is a message with its open files.
"""

import contextlib
import errno
import os
import socket
import struct
from typing import Final, Literal, NamedTuple

import msgspec

from ocifs.errors import MountError, printable_path, raise_if_short
from ocifs.mount.framing import send_message
from ocifs.mount.job import Job
from ocifs.mount.record import LOG, runtime_directory, to_json
from ocifs.service.caller import root
from ocifs.service.kept import PROTOCOL, OtherVersionError, decode_versioned
from ocifs.trusted_directory import TrustedDirectory
from ocifs.version import __version__

LOCK: Final = "service.lock"
"""Name of the file there that the keeper of the service has locked."""

_BACKLOG: Final = 128
_CREDENTIALS = struct.Struct("=iII")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request to a keeper."""

    request: Literal["mount", "ping", "upgrade"]
    protocol: int = PROTOCOL
    version: str = __version__
    job: Job | None = None
    fds: tuple[int, ...] = ()
    """The sender's numbers of the open files, in the order in which they are sent; after the mount namespace."""
    log: int | None = None
    """The sender's number of the log file, if the job names one; it is one of `fds`."""
    root: tuple[int, ...] = ()
    """The sender's root directory (`ocifs.service.caller.root`), in its mount namespace."""


class KeeperSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a keeper, which the next one takes over."""

    log: str | None = None
    """File for log messages; None: the journal or stderr."""
    journal: bool = False
    """Whether log messages go to the journal."""
    restart_limit: int = 5
    """Restarts of a worker within a minute, before its mount is given up."""
    request_seconds: float = 10.0
    """Seconds that a command may take to send its request."""
    idle_seconds: float = 10.0
    """Seconds without a request after which the worker of a mount is replaced by a dormant one; 0: never."""
    span_cache: int = 256 << 20
    """Most bytes of decoded spans of all mounts together; 0: each mount has its own, up to its own limit."""
    metrics: str | None = None
    """Where metrics are served: `unix:PATH` or `127.0.0.1:PORT`; None: nowhere."""


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """The beginning of a handover: the mounts follow, each in a message."""

    mounts: int
    settings: KeeperSettings
    protocol: int = PROTOCOL
    version: str = __version__


class Pong(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a ping."""

    pid: int
    mounts: int
    settings: KeeperSettings
    since: float
    spans: int = 0
    """Bytes of decoded spans that workers have."""
    shared_spans: int = 0
    """Bytes of decoded spans that are shared; those count once."""
    protocol: int = PROTOCOL
    version: str = __version__


def decode_request(data: bytes) -> Request:
    """Decode a request. Raises MountError if it is malformed, or of another version."""
    try:
        return decode_versioned(data, Request)
    except ValueError as error:
        raise MountError(f"malformed request: {str(error).splitlines()[0]}") from None
    except OtherVersionError as other:
        raise MountError(
            f"the service is ocifs {__version__} with protocol {PROTOCOL}, the request comes from {other}: "
            "restart the service"
        ) from None


def send_mount(connection: socket.socket, job: Job) -> None:
    """Send a job with its open files, and the mount namespace in which the mountpoint is. Raises MountError."""
    with contextlib.ExitStack() as closing:
        log = _opened_log(job.options.log)
        if log is not None:
            closing.callback(os.close, log)
        fds = [*sorted(job.rootfs.fds()), *([] if log is None else [log])]
        namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        closing.callback(os.close, namespace)
        request = Request(request="mount", job=job, fds=tuple(fds), log=log, root=root())
        send_message(connection, to_json(request), [namespace, *fds])


def _opened_log(path: str | None) -> int | None:
    """Open the log file of a job, unless it is the one in the runtime directory. Raises MountError.

    The keeper may see another file at that path, or none, when it starts another worker for the mount.
    """
    if path is None or path == str(runtime_directory().path / LOG):
        return None
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise MountError(f"cannot write the log {printable_path(path)}: {error.strerror}") from None


class PeerCredentials(NamedTuple):
    """The process at the other end of a connection."""

    pid: int
    uid: int


def peer(connection: socket.socket) -> PeerCredentials:
    """Return the process that has connected (SO_PEERCRED). Raises OSError."""
    pid, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return PeerCredentials(pid, uid)


def listen_in(runtime: TrustedDirectory, name: str) -> socket.socket:
    """Return a listening socket in the runtime directory, which root alone can connect to. Raises MountError."""
    try:
        runtime.unlink(name)
        os.fchdir(runtime.fd)  # the path may be too long for an address
        try:
            return listen_at(name, _BACKLOG)
        finally:
            os.chdir("/")
    except OSError as error:
        raise unusable(runtime, name, error) from None


def listen_at(path: str, backlog: int) -> socket.socket:
    """Return a listening socket at a new path, which only this user can connect to. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        listener.bind(path)
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def unusable(runtime: TrustedDirectory, name: str, error: OSError) -> MountError:
    """Return the error for a file of the service that cannot be made. Raises ShortageError."""
    raise_if_short(error)
    what = os.strerror(errno.ENOENT) if error.errno is None else error.strerror
    return MountError(f"cannot start the service: {printable_path(str(runtime.path / name))}: {what}")
