"""A mount of a keeper, and its worker: started, replaced by another, given up.

A mount has at most one worker. Its open files stay open until the mount ends, whatever happens to its workers. This
module does not know the other mounts, nor the files of the runtime directory.
"""

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Sequence

import msgspec

from ocifs.errors import printable_path
from ocifs.mount import syscalls
from ocifs.mount.counters import AWAKE, DORMANT, ENDED, FAILED, IDLE, MOUNTED, STARTING, Counters
from ocifs.mount.mount_identity import MountIdentity
from ocifs.mount.mountinfo import mount_table
from ocifs.service.dormant import Dormant
from ocifs.service.kept import Kept
from ocifs.service.notify import IMAGE, MOUNT
from ocifs.service.span_broker import SpanBroker
from ocifs.service.template import Template
from ocifs.service.worker import Order, encode

_MINUTE = 60.0
_QUICK = 1.0
"""Seconds: a worker that dies earlier is replaced with a delay."""
_DELAY, _DELAY_FACTOR, _DELAY_MAX = 0.1, 3, 5.0
"""Seconds of the first delay; the factor to the next one; the maximum."""
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

    def fork(self, template: Template, broker: SpanBroker | None, order: Order, fds: Sequence[int]) -> None:
        """Start a worker with an order, which shares spans over `broker`.

        `fds` are the open files that only this order needs. Raises OSError.
        """
        self._fork(template, broker, order, self._files(fds), Dormant())

    def fork_successor(self, template: Template, broker: SpanBroker | None, order: Order, directory: int) -> None:
        """Start a worker with an order to resume, which is dormant if the mount is idle.

        `directory` is the descriptor of the runtime directory. Raises OSError.
        """
        files = self._files([*([] if self.predecessor is None else [self.predecessor]), directory])
        dormant = Dormant()
        if self.counters.activity != AWAKE:
            dormant = Dormant(files.index(self.kept.device), files.index(directory))
        self._fork(template, broker, order, files, dormant)
        if self.predecessor is not None:
            os.close(self.predecessor)
            self.predecessor = None

    def _files(self, fds: Sequence[int]) -> list[int]:
        return [self.state, *self.kept.fds(), *fds]

    def _fork(
        self, template: Template, broker: SpanBroker | None, order: Order, files: Sequence[int], dormant: Dormant
    ) -> None:
        self._started = time.monotonic()
        if broker is None:
            self.pid, self.pidfd = template.fork(encode(order, dormant), files)
            return
        with broker.connect(self.kept.job) as connection:
            payload = encode(msgspec.structs.replace(order, sharing=True), dormant)
            self.pid, self.pidfd = template.fork(payload, [*files, connection.fileno(), broker.hints])

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


def _is_over(device: int) -> bool:
    """Whether a FUSE connection has ended."""
    poll = select.poll()
    poll.register(device, 0)
    return any(events & (select.POLLERR | select.POLLNVAL) for _, events in poll.poll(0))
