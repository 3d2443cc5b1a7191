"""The mounts of a keeper: their open files, their workers, and the replacement of a worker that dies.

A mount has at most one worker. The open files of a mount stay open until the mount ends, whatever happens to its
workers. This module neither waits for a worker nor knows the connections of commands.
"""

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import select
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from ocifs.errors import MountError, ShortageError, printable_path, raise_if_short, shortage
from ocifs.mount import syscalls
from ocifs.mount.counters import AWAKE, DEAD, DORMANT, ENDED, FAILED, IDLE, MOUNTED, STARTING, Counters
from ocifs.mount.handoff import FileRange
from ocifs.mount.job import Job
from ocifs.mount.mount_identity import MountIdentity
from ocifs.mount.mountinfo import mount_table
from ocifs.service.dormant import Dormant
from ocifs.service.kept import Kept
from ocifs.service.notify import IMAGE, MOUNT
from ocifs.service.protocol import Request
from ocifs.service.span_broker import SpanBroker
from ocifs.service.span_messages import is_sealed
from ocifs.service.template import Template
from ocifs.service.worker import Order, encode
from ocifs.trusted_directory import TrustedDirectory
from ocifs.version import __version__

_NOT_READABLE = "malformed request: a layer or tree image that is not a readable file"
_MINUTE = 60.0
_QUICK = 1.0
"""Seconds: a worker that dies earlier is replaced with a delay."""
_DELAY, _DELAY_FACTOR, _DELAY_MAX = 0.1, 3, 5.0
"""Seconds of the first delay; the factor to the next one; the maximum."""
_SUFFIX = ".counters"
_COMPARED_MAX = 32 << 20
_PIECE = 64 << 10
"""Bytes to compare at once; they stay in the processor's cache, so 32 MiB take less than 20 ms."""
_log = logging.getLogger(__name__)


class Served:
    """A mount with its worker. Without a worker, one is `due`, or the mount has been given up."""

    def __init__(self, kept: Kept, state: int, counters: Counters, pid: int = 0, pidfd: int | None = None) -> None:
        self.kept = kept
        self.state = state
        """Descriptor of the file with `kept`."""
        self.counters = counters
        self.pid = pid
        self.pidfd = pidfd
        self.recorded = pid
        """The last worker known to have recorded the mount, since one that dies early leaves that record; 0: none."""
        self.due: float | None = None
        """When to start a worker, by the monotonic clock."""
        self.predecessor: int | None = None
        """The pidfd of a worker of another keeper, or of an idle one, which the next worker ends."""
        self.retired: int | None = None
        """The pidfd of an idle worker, until its successor has ended it."""
        self._started = time.monotonic()
        self._deaths: list[float] = []
        self._quick = 0
        """Consecutive workers that died quickly."""

    def is_starting(self) -> bool:
        """Whether the mount is being made."""
        return self.counters.state == STARTING

    def is_awake(self) -> bool:
        """Whether it has a worker that may become idle, or is."""
        return self.pidfd is not None and self.counters.activity != DORMANT

    def is_idle(self) -> bool:
        """Whether a dormant worker can replace its worker."""
        return (
            self.pidfd is not None
            and self.retired is None
            and (self.counters.state == MOUNTED and self.counters.activity == IDLE)
        )

    def has_ended(self) -> bool:
        """Whether the mount has ended; clear what an aborted connection has left of it."""
        if self.counters.state in {ENDED, FAILED}:
            return True
        if not _is_over(self.kept.device):
            return False
        known = self.mounted().known
        if known is not None:
            with contextlib.suppress(OSError):  # the mount is then listed as dead
                MountIdentity(known.path, known).clear()
        return True

    def mounted(self) -> Kept:
        """Return the mount as it is known once a worker has mounted it. Raises MountError."""
        if self.kept.known is None:
            self.kept = msgspec.structs.replace(self.kept, known=Kept.read(self.state).known)
        return self.kept

    def fork(
        self,
        template: Template,
        broker: SpanBroker | None,
        order: Order,
        fds: Sequence[int],
        dormant: Dormant = Dormant(),  # noqa: B008 - it is immutable
    ) -> None:
        """Start a worker with an order, which shares spans over `broker`.

        `fds` are the open files that only this order needs. Raises OSError.
        """
        self._started = time.monotonic()
        files = [self.state, *self.kept.fds(), *fds]
        if broker is None:
            self.pid, self.pidfd = template.fork(encode(order, dormant), files)
            return
        with broker.connect(self.kept.job) as connection:
            payload = encode(msgspec.structs.replace(order, sharing=True), dormant)
            self.pid, self.pidfd = template.fork(payload, [*files, connection.fileno(), broker.hints])

    def start_again(self, mounts: "Mounts") -> None:
        """Start another worker for the mount, which is dormant if the mount is idle. Raises OSError."""
        kept = self.mounted()
        order = Order(
            kept=kept,
            fds=tuple(kept.fds()),
            keeper=os.getpid(),
            journal=mounts.journal,
            idle_seconds=mounts.idle_seconds,
            predecessor=self.recorded,
            resume=True,
        )
        fds = [*([] if self.predecessor is None else [self.predecessor]), mounts.runtime.fd]
        dormant = Dormant()
        if self.counters.activity != AWAKE:
            files = [self.state, *kept.fds(), *fds]
            dormant = Dormant(files.index(kept.device), files.index(mounts.runtime.fd))
        self.fork(mounts.template, mounts.broker, order, fds, dormant)
        if self.predecessor is not None:
            os.close(self.predecessor)
            self.predecessor = None

    def kill_retired(self) -> None:
        """Kill the idle worker before this one, if it was not ended yet."""
        if self.retired is not None:
            signal.pidfd_send_signal(self.retired, signal.SIGKILL)

    def kill(self) -> None:
        """Kill the worker."""
        if self.pidfd is not None:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def terminate(self) -> None:
        """Let the worker unmount, and end."""
        if self.pidfd is not None:
            signal.pidfd_send_signal(self.pidfd, signal.SIGTERM)

    def reap(self, template: Template) -> str:
        """Note the exit of the worker; return how it ended."""
        assert self.pidfd is not None  # noqa: S101 - it has exited
        os.close(self.pidfd)
        self.pidfd = None
        status = template.status_of(self.pid)
        if status is None:
            return "has died"
        if os.WIFSIGNALED(status):
            return f"was ended by signal {os.WTERMSIG(status)}"
        return f"ended with status {os.waitstatus_to_exitcode(status)}"

    def note_death(self, why: str, limit: int) -> None:
        """Schedule another worker, unless more than `limit` died within a minute."""
        now = time.monotonic()
        self._deaths = [*(each for each in self._deaths if now - each < _MINUTE), now]
        self._quick = self._quick + 1 if now - self._started < _QUICK else 0
        shown = printable_path(self.kept.job.mountpoint)
        if len(self._deaths) > limit:
            _log.error(
                "%s: its worker %d %s, after %d restarts within a minute: given up, reads fail; "
                "`ocifs mount --replace` mounts it again", shown, self.pid, why, limit, extra=self._fields(),
            )  # fmt: skip
            return
        delay = min(_DELAY * _DELAY_FACTOR ** (self._quick - 1), _DELAY_MAX) if self._quick else 0.0
        self.due = now + delay
        self.counters.note_restart()
        _log.warning("%s: its worker %d %s, and is replaced", shown, self.pid, why, extra=self._fields())

    def _fields(self) -> dict[str, str]:
        """Return the fields of log records about this mount, for the journal."""
        return {MOUNT: self.kept.job.mountpoint, IMAGE: self.kept.job.image}

    def clear_attached(self) -> None:
        """Detach what a worker that died while it mounted has attached."""
        device = self.counters.attaching
        if self.counters.state != STARTING or not device:
            return
        name = f"{os.major(device)}:{os.minor(device)}"
        job = self.kept.job
        for mount in mount_table():
            if (mount.device, mount.digest, mount.mountpoint) == (name, job.digest, job.mountpoint):
                with contextlib.suppress(OSError):
                    syscalls.umount(job.mountpoint, lazy=True)

    def close(self) -> None:
        """Close its files; if no other process has the connection open, that ends the mount."""
        for fd in {*self.kept.fds(), self.state}:
            os.close(fd)
        self.counters.close()


class Mounts:
    """All mounts of a keeper, with their files in the runtime directory."""

    def __init__(
        self, runtime: TrustedDirectory, template: Template, *, journal: bool = False, idle_seconds: float = 0.0
    ) -> None:
        self.runtime = runtime
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
                page = self.runtime.open_file(name, os.O_RDWR | os.O_CREAT)
                undo.callback(self.runtime.unlink, name)
                undo.callback(os.close, page)
                counters = Counters.make(page)
                state = os.memfd_create("ocifs-kept", os.MFD_CLOEXEC)
                undo.callback(os.close, state)
            except OSError as error:
                raise_if_short(error)
                raise MountError(f"service: cannot prepare a mount: {error.strerror}") from None
            kept = Kept(job=job, device=device, page=page, log=log, counters=name, since=time.time())
            served = Served(kept, state, counters)
            order = Order(
                kept=kept,
                fds=tuple(kept.fds()),
                keeper=os.getpid(),
                journal=self.journal,
                idle_seconds=self.idle_seconds,
                root=request.root,
            )
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
        self.runtime.unlink(served.kept.counters)
        for pid in {served.pid, served.recorded} - {0}:
            self.runtime.unlink(_record_of(pid))

    def remove_ended(self) -> None:
        """Forget the mounts that were unmounted while they had no worker, which would have noticed."""
        for served in self:
            if served.pidfd is None and served.has_ended():
                self.remove(served)

    def start_again(self, served: Served) -> None:
        """Start another worker for a mount; only one record is left for it to replace. Raises OSError."""
        if served.recorded != served.pid and self._has_record(served.pid):
            if served.recorded:
                self.runtime.unlink(_record_of(served.recorded))
            served.recorded = served.pid
        served.start_again(self)

    def replace_idle(self, served: Served) -> tuple[int, int]:
        """Start a dormant worker, which ends the idle one; return PID and pidfd of that one.

        Raises OSError; then the idle one goes on.
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

    def _has_record(self, pid: int) -> bool:
        try:
            self.runtime.status(_record_of(pid))
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


def _is_over(device: int) -> bool:
    """Whether a FUSE connection has ended."""
    poll = select.poll()
    poll.register(device, 0)
    return any(events & (select.POLLERR | select.POLLNVAL) for _, events in poll.poll(0))


def _fork_failed(error: OSError) -> Exception:
    if error.errno == errno.EAGAIN:
        return ShortageError("no more processes: raise the limit (ulimit -u, TasksMax, pids.max)")
    raise_if_short(error)
    return shortage(error) or MountError(f"service: cannot start a worker: {error.strerror}")
