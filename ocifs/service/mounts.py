"""All mounts of a keeper, and their files in the runtime directory.

This module checks requests, and orders workers. It neither waits for a worker nor knows the connections of commands.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import socket
import stat
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

from ocifs.errors import MountError, ShortageError, raise_if_short, shortage
from ocifs.mount.counters import DEAD, Counters
from ocifs.mount.handoff import FileRange
from ocifs.mount.job import Job
from ocifs.service.kept import Kept
from ocifs.service.protocol import Request
from ocifs.service.served import Served
from ocifs.service.span_messages import is_sealed
from ocifs.service.template import Template
from ocifs.service.worker import Order
from ocifs.trusted_directory import TrustedDirectory
from ocifs.version import __version__

if TYPE_CHECKING:
    from ocifs.service.span_broker import SpanBroker

_NOT_READABLE = "malformed request: a layer or tree image that is not a readable file"
_SUFFIX = ".counters"
_COMPARED_MAX = 32 << 20
_PIECE = 64 << 10
"""Bytes to compare at once; they stay in the processor's cache, so 32 MiB take less than 20 ms."""


class Mounts:
    """All mounts of a keeper, with their files in the runtime directory."""

    def __init__(
        self, runtime: TrustedDirectory, template: Template, *, journal: bool = False, idle_seconds: float = 0.0
    ) -> None:
        self._runtime = runtime
        self.template = template
        self.journal = journal
        """Whether workers log to the journal, unless their command has named a file."""
        self.idle_seconds = idle_seconds
        """Seconds without a request until a mount is idle; 0: never."""
        self.broker: SpanBroker | None = None
        """Lets workers share decoded spans."""
        self._served: dict[str, Served] = {}
        """By the name of the counters."""

    def __iter__(self) -> Iterator[Served]:
        return iter([*self._served.values()])

    def __contains__(self, counters: str) -> bool:
        return counters in self._served

    def __bool__(self) -> bool:
        return bool(self._served)

    def are_starting(self) -> bool:
        """Whether a mount is being made, or a worker replaced by a dormant one."""
        return any(served.is_starting() or served.retired is not None for served in self)

    def mount(self, request: Request, fds: list[int], client: socket.socket) -> Served:
        """Fork a worker that mounts and answers the client. The mount owns `fds` unless this raises an error.

        Raises:
            MountError: The request is wrong, or something cannot be made.
        """
        job, namespace, log = _checked(request, fds)
        self._share_tree_image(job)
        name = secrets.token_hex(8) + _SUFFIX
        with contextlib.ExitStack() as undo:
            try:
                device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
                undo.callback(os.close, device)
                page = self._runtime.open_file(name, os.O_RDWR | os.O_CREAT)
                undo.callback(self._runtime.unlink, name)
                undo.callback(os.close, page)
                counters = Counters.make(page)
                state = os.memfd_create("ocifs-kept", os.MFD_CLOEXEC)
                undo.callback(os.close, state)
            except OSError as error:
                raise_if_short(error)
                raise MountError(f"service: cannot prepare a mount: {error.strerror}") from None
            kept = Kept(job=job, device=device, page=page, log=log, counters=name, since=time.time())
            served = Served(kept, state, counters)
            order = msgspec.structs.replace(self._order(kept), root=request.root)
            try:
                served.fork(self.template, self.broker, order, [namespace, client.fileno()])
            except OSError as error:
                raise _fork_failed(error) from None
            undo.pop_all()
        os.close(namespace)
        self._served[name] = served
        return served

    def _share_tree_image(self, job: Job) -> None:
        """Let the descriptor of a tree image refer to that of another mount if they have the same bytes.

        Each command sends its own sealed copy in memory, which no process can change.
        """
        tree = job.rootfs.tree_image
        others = (served.kept.job.rootfs.tree_image for served in self if served.kept.job.digest == job.digest)
        other = next(others, None)
        if other is not None and _have_same_bytes(tree, other):
            os.dup2(other.fd, tree.fd, inheritable=False)

    def add(self, served: Served) -> None:
        """Keep a mount of another keeper; a worker is due for it."""
        served.due = time.monotonic()
        self._served[served.kept.counters] = served

    def remove(self, served: Served) -> None:
        """Forget a mount that has ended, or was not made."""
        del self._served[served.kept.counters]
        served.close()
        self._runtime.unlink(served.kept.counters)
        for pid in {served.pid, served.recorded} - {0}:
            self._runtime.unlink(_record_of(pid))

    def remove_ended(self) -> None:
        """Forget the mounts that were unmounted while they had no worker, which would have noticed."""
        for served in self:
            if served.pidfd is None and served.has_ended():
                self.remove(served)

    def start_again(self, served: Served) -> None:
        """Start another worker for a mount; only one record is left for it to replace. Raises OSError."""
        if served.recorded != served.pid and self._has_record(served.pid):
            if served.recorded:
                self._runtime.unlink(_record_of(served.recorded))
            served.recorded = served.pid
        order = self._order(served.mounted())
        order = msgspec.structs.replace(order, predecessor=served.recorded, resume=True)
        served.fork_successor(self.template, self.broker, order, self._runtime.fd)

    def replace_idle(self, served: Served) -> tuple[int, int]:
        """Start a dormant worker, which ends the idle one; return PID and pidfd of that one.

        Raises OSError; then the idle one continues.
        """
        assert served.pidfd is not None  # noqa: S101 - `is_idle`
        pid, pidfd = served.pid, served.pidfd
        served.predecessor = os.dup(pidfd)
        try:
            self.start_again(served)
        except OSError:
            os.close(served.predecessor)
            served.predecessor = None
            raise
        served.retired = pidfd
        return pid, pidfd

    def _order(self, kept: Kept) -> Order:
        return Order(
            kept=kept,
            fds=tuple(kept.fds()),
            keeper=os.getpid(),
            journal=self.journal,
            idle_seconds=self.idle_seconds,
        )

    def _has_record(self, pid: int) -> bool:
        try:
            self._runtime.status(_record_of(pid))
        except FileNotFoundError:
            return False
        return True

    def give_up(self, served: Served) -> None:
        """End the connection of a mount whose workers die; the mount stays, listed as dead, and reads fail."""
        served.counters.state = DEAD
        del self._served[served.kept.counters]
        served.close()


def _checked(request: Request, fds: list[int]) -> tuple[Job, int, int | None]:
    """Return the job with the descriptors of this process, that of its mount namespace, and that of its log.

    Raises MountError.
    """
    if request.version != __version__:
        raise MountError(
            f"the service is ocifs {__version__}, the command {request.version}: `ocifs service upgrade`, "
            "or mount with --no-service"
        )
    if request.job is None or len(fds) != len(request.fds) + 1:
        raise MountError(f"malformed request: {len(fds)} open files with a job of {len(request.fds)}")
    namespace, *files = fds
    numbers = dict(zip(request.fds, files, strict=True))
    log = None if request.log is None else numbers.get(request.log)
    if log is not None:
        files.remove(log)
    if not all(_is_readable(fd, stat.S_ISREG) or _is_readable(fd, stat.S_ISDIR) for fd in files):
        raise MountError(_NOT_READABLE)
    if not os.readlink(f"/proc/self/fd/{namespace}").startswith("mnt:["):
        raise MountError("malformed request: the first open file is not a mount namespace")
    try:
        rootfs = request.job.rootfs.renumbered(numbers)
    except KeyError:
        raise MountError("malformed request: an open file of the job is missing") from None
    if not os.path.isabs(request.job.mountpoint):
        raise MountError("malformed request: the mountpoint is not an absolute path")
    if rootfs.fds() != set(files):
        raise MountError("malformed request: open files that the job does not name")
    directories = rootfs.directory_fds()
    if not all(_is_readable(fd, stat.S_ISDIR if fd in directories else stat.S_ISREG) for fd in files):
        raise MountError(_NOT_READABLE)
    return msgspec.structs.replace(request.job, rootfs=rootfs), namespace, log


def _is_readable(fd: int, is_right: Callable[[int], bool]) -> bool:
    readable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY
    return readable and is_right(os.fstat(fd).st_mode)


def _record_of(pid: int) -> str:
    return f"{pid}.json"


def _have_same_bytes(one: FileRange, other: FileRange) -> bool:
    """Whether two files in memory have the same bytes for ever. Large ones are not compared: the keeper must not wait.

    Raises OSError.
    """
    if one.size != other.size or one.offset or other.offset or one.size > _COMPARED_MAX:
        return False
    return all(is_sealed(each.fd, each.size) for each in (one, other)) and all(
        os.pread(one.fd, _PIECE, offset) == os.pread(other.fd, _PIECE, offset) for offset in range(0, one.size, _PIECE)
    )


def _fork_failed(error: OSError) -> Exception:
    if error.errno == errno.EAGAIN:
        return ShortageError("no more processes: raise the limit (ulimit -u, TasksMax, pids.max)")
    raise_if_short(error)
    return shortage(error) or MountError(f"service: cannot start a worker: {error.strerror}")
