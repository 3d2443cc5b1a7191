"""How mounts come from one keeper to the next: over a socket from a running one, or out of the workers of a dead one.

Only the next keeper acts: once it has everything, it says so, and the other one exits at once. Its workers continue
until workers of the next keeper end them. At every point either keeper, or none, can die without effect on a mount.
"""

import ctypes
import logging
import os
import re
import socket
import time
from typing import NamedTuple

import msgspec

from ocifs.errors import MountError, OcifsError, printable_path
from ocifs.mount.counters import MOUNTED, Counters
from ocifs.mount.framing import receive_message, send_message
from ocifs.mount.job import MountReply
from ocifs.mount.record import ListedMount, from_json, is_keeper, list_mounts, to_json
from ocifs.service.keeper import Keeper
from ocifs.service.kept import PROTOCOL, Kept, OtherVersionError, decode_versioned
from ocifs.service.mounts import Mounts
from ocifs.service.protocol import Handover, KeeperSettings, Request
from ocifs.service.served import Served
from ocifs.trusted_directory import TrustedDirectory
from ocifs.version import __version__

_SECONDS = 10.0
"""Seconds that the other keeper may take for a message."""
_TAKEN = b"taken"
_SYS_PIDFD_GETFD = 438
_STALE_SECONDS = 300.0
_COUNTERS = re.compile(r"[0-9a-f]{16}\.counters")
_MOUNTS_MAX = 100_000
_log = logging.getLogger(__name__)
_libc = ctypes.CDLL(None, use_errno=True)


class Taken(NamedTuple):
    """What a keeper takes over from a running one."""

    listener: socket.socket
    lock: int
    """Descriptor of the locked file of the service."""
    metrics: socket.socket | None
    """The listening socket for metrics."""
    settings: KeeperSettings
    mounts: list[Served]


def give(keeper: Keeper, lock: int, successor: socket.socket) -> bool:
    """Pass everything to the next keeper; return whether it has accepted. Then this process must exit at once."""
    assert keeper.listener is not None  # noqa: S101 - only the service is upgraded
    successor.settimeout(_SECONDS)
    mounts = [*keeper.mounts]
    try:
        head = Handover(mounts=len(mounts), settings=keeper.settings)
        metrics = [] if keeper.exporter is None else [keeper.exporter.listener.fileno()]
        send_message(successor, to_json(head), [keeper.listener.fileno(), lock, *metrics])
        for served in mounts:
            kept = served.mounted()
            fds = kept.fds()
            worker = [] if served.pidfd is None else [served.pidfd]
            send_message(successor, to_json({"kept": kept, "fds": fds, "pid": served.pid}), [*fds, *worker])
        answer = receive_message(successor)
    except (OSError, OcifsError) as error:
        _log.warning("cannot hand over: %s", error)
        return False
    return answer is not None and answer[0] == _TAKEN


def take(connection: socket.socket) -> Taken:
    """Take everything over from the running keeper at the other end. Raises MountError; then that one stays."""
    connection.settimeout(60 + _SECONDS)  # a mount that is being made comes first
    try:
        send_message(connection, to_json(Request(request="upgrade")))
        payload, fds = _next(connection)
        head = _head(payload)
        listener, lock, *others = fds
        listening = socket.socket(fileno=listener)
        metrics = socket.socket(fileno=others[0]) if others else None
        mounts = [_served(*_next(connection)) for _ in range(head.mounts)]
        send_message(connection, _TAKEN)
    except (OSError, ValueError) as error:
        raise MountError(f"cannot take over from the running service: {error}: it stays") from None
    return Taken(listening, lock, metrics, head.settings, mounts)


def _next(connection: socket.socket) -> tuple[bytes, list[int]]:
    received = receive_message(connection)
    if received is None:
        raise MountError("the running service has ended the connection: it stays, see its log")
    return received


def _head(payload: bytes) -> Handover:
    """Decode the first message of a handover. Raises MountError."""
    try:
        head = decode_versioned(payload, Handover)
    except ValueError:
        reply = from_json(payload, MountReply)
        raise MountError(f"the running service refuses: {reply.error}") from None
    except OtherVersionError as other:
        raise MountError(
            f"the running service is ocifs {other}, this is {__version__} with protocol {PROTOCOL}: it stays"
        ) from None
    if not 0 <= head.mounts <= _MOUNTS_MAX:
        raise MountError(f"the running service claims to have {head.mounts} mounts: it stays")
    return head


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    """A mount of a handover."""

    kept: object
    fds: tuple[int, ...]
    """The sender's numbers of the open files, in the order in which they are sent; the pidfd of the worker follows."""
    pid: int
    """PID of the worker."""


def _served(payload: bytes, fds: list[int]) -> Served:
    """Return a mount of a handover. Raises MountError, ValueError, OSError."""
    message = from_json(payload, _Message)
    kept = Kept.decode(to_json(message.kept))
    files, workers = fds[: len(message.fds)], fds[len(message.fds) :]
    try:
        kept = kept.renumbered(dict(zip(message.fds, files, strict=True)))
    except KeyError:
        raise MountError(f"{printable_path(kept.job.mountpoint)}: an open file is missing") from None
    return _kept_again(kept, message.pid, workers[0] if workers else None)


def _kept_again(kept: Kept, pid: int, predecessor: int | None) -> Served:
    """Return a mount with the descriptors of this process. Raises OSError, ValueError."""
    state = os.memfd_create("ocifs-kept", os.MFD_CLOEXEC)
    kept.write(state)
    served = Served(kept, state, Counters.open(kept.page), pid)
    served.predecessor = predecessor
    return served


def adopt(mounts: Mounts, runtime: TrustedDirectory) -> None:
    """Take over the mounts in the records of this runtime directory whose keeper has died, and remove old counters."""
    listed = list_mounts()
    for mount in listed:
        if mount.kept is None or mount.state == "dead" or mount.kept.counters in mounts or is_keeper(mount.kept.keeper):
            continue
        try:
            if (served := _orphan(mount)) is not None:
                mounts.add(served)
        except (OSError, ValueError, OcifsError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            _log.warning("%s: cannot take over its worker %d: %s", printable_path(mount.mountpoint), mount.pid, why)
    used = {mount.kept.counters for mount in listed if mount.kept is not None}
    for name, status in [*runtime.files()]:
        if _COUNTERS.fullmatch(name) and name not in used and time.time() - status.st_mtime > _STALE_SECONDS:
            runtime.unlink(name)


def _orphan(mount: ListedMount) -> Served | None:
    """Copy the open files of a worker (pidfd_getfd(2)). Raises OSError, ValueError, MountError."""
    assert mount.kept is not None  # noqa: S101 - the caller has checked
    worker = os.pidfd_open(mount.pid)
    copied: list[int] = []

    def copy(fd: int) -> int:
        copied.append(_copy_of(worker, fd))
        return copied[-1]

    try:
        state = _copy_of(worker, mount.kept.state)
        try:
            kept = Kept.read(state)  # `is_alive` has checked that it is the same process
        finally:
            os.close(state)
        served = _kept_again(kept.renumbered({fd: copy(fd) for fd in kept.fds()}), mount.pid, worker)
    except (OSError, ValueError, MountError):
        for fd in [*copied, worker]:
            os.close(fd)
        raise
    if served.counters.state != MOUNTED:
        served.close()
        os.close(worker)
        return None
    return served


def _copy_of(worker: int, fd: int) -> int:
    """Return a duplicate of the descriptor `fd` of a process. Raises OSError."""
    copy: int = _libc.syscall(_SYS_PIDFD_GETFD, worker, fd, 0)
    if copy < 0:
        raise OSError(error := ctypes.get_errno(), os.strerror(error))
    return copy
