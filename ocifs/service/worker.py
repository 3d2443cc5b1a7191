"""A worker: a forked process that serves one mount of a keeper.

It mounts, or takes over a mount whose worker died or is to be replaced, and ends with the mount. The counters say how
it ended: a keeper replaces a worker that ended in any other state than unmounted. An unexpected error does not unmount.
"""

import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import msgspec

from ocifs.errors import MountError, OcifsError
from ocifs.image.rootfs import Rootfs
from ocifs.layer.span_cache import SpanCache
from ocifs.mount import syscalls
from ocifs.mount.block_file import take_over
from ocifs.mount.counters import AWAKE, DORMANT, ENDED, FAILED, MOUNTED, Counters
from ocifs.mount.daemon import Mounted, claimed, open_log, reportable, serve_mounted, span_cache
from ocifs.mount.erofs_engine import Connection, ErofsEngine
from ocifs.mount.framing import receive_message
from ocifs.mount.handoff import FileRange, Handoff
from ocifs.mount.job import Job, MountReply
from ocifs.mount.mount_identity import Known, MountIdentity
from ocifs.mount.mountinfo import mount_table
from ocifs.mount.new_mountpoint import remove_mountpoint
from ocifs.mount.options import MountOptions
from ocifs.mount.rate_limited_log import log_aborted, log_failure
from ocifs.mount.record import (
    LOG,
    KeptRecord,
    MountRecord,
    PackRecord,
    from_json,
    read_record,
    runtime_directory,
    to_json,
)
from ocifs.service.caller import root
from ocifs.service.dormant import OVER, PREPARED, STOPPED, UNPREPARED, Dormant
from ocifs.service.kept import Kept
from ocifs.service.notify import JournalHandler
from ocifs.service.span_exchange import SpanExchange
from ocifs.trusted_directory import TrustedDirectory

CRASHED = 70
_EXIT_MILLISECONDS = 10_000
"""Time that a killed process may take to exit, such as one that waits for a disk."""
_log = logging.getLogger(__name__)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is to do. Descriptors are the keeper's; the open files come with it."""

    kept: Kept
    fds: tuple[int, ...]
    """The descriptors of `kept`, in the order in which they are sent: after that of the state, before others."""
    keeper: int
    """PID."""
    journal: bool
    """Whether to log to the journal, unless the job names a file of its own."""
    root: tuple[int, ...] = ()
    """The root directory of the command (`ocifs.service.caller.root`)."""
    resume: bool = False
    """Take over instead of mounting."""
    predecessor: int = 0
    """PID of the worker before this one."""
    idle_seconds: float = 0.0
    """Seconds without a request until it notes that the mount is idle; 0: never."""
    sharing: bool = False
    """Whether it shares spans with others: a connection and a file of hints come last."""


def encode(order: Order, dormant: Dormant = Dormant()) -> bytes:  # noqa: B008 - it is immutable
    """Encode an order for `work`."""
    return dormant.encode(to_json(order))


def work(connection: socket.socket) -> int:
    """Receive an order, and carry it out; return the exit status."""
    try:
        with connection:
            received = receive_message(connection)
        if received is None:  # the keeper has died
            return CRASHED
        dormant, order = Dormant.decode(received[0])
        woken = UNPREPARED
        if dormant != Dormant():
            woken = dormant.wait(received[1], lambda record: _Received(order, received[1]).prepare(record))
        return _Received(order, received[1]).carry_out(woken)
    except OcifsError as failure:
        _log.error("a worker failed: %s", failure)
        return failure.exit_code
    except BaseException:  # noqa: BLE001 - the boundary of this process
        _log.exception("a worker failed")
        return CRASHED


class _Received:
    """An order with its open files."""

    def __init__(self, payload: bytes, received: list[int]) -> None:
        order = from_json(payload, Order)
        state, *files = received
        others = files[len(order.fds) :]
        sharing = None
        if order.sharing:
            *others, connection_of_spans, hints = others
            sharing = socket.socket(fileno=connection_of_spans), hints
        kept = order.kept.renumbered(dict(zip(order.fds, files, strict=False)))
        counters = Counters.open(kept.page)
        self._worker = Worker(kept, state, counters, order.keeper, order.journal, order.idle_seconds, sharing)
        self._order = order
        self._others = others

    def prepare(self, record: int) -> int:
        """Take over for a dormant worker, whose child this process is."""
        return self._worker.prepare(self._predecessor(), self._order.predecessor, record)

    def carry_out(self, woken: int = UNPREPARED) -> int:
        """Mount, or serve; `woken` says how a dormant worker has woken up."""
        worker, order = self._worker, self._order
        if not order.resume:
            namespace, client = self._others
            return worker.mount(namespace, order.root, socket.socket(fileno=client))
        os.close(self._others[-1])
        if woken == UNPREPARED:
            return worker.resume(self._predecessor(), order.predecessor)
        return worker.resume(None, os.getpid(), woken)

    def _predecessor(self) -> int | None:
        """Return the pidfd of a worker to end; the runtime directory comes last."""
        return self._others[0] if len(self._others) > 1 else None


def warm_up() -> None:
    """Let msgspec examine the types of messages and records, before the fork of the template: that takes memory."""
    empty = Handoff(FileRange(0, 0, 0), ((FileRange(0, 0, 0), FileRange(0, 0, 0)),))
    job = Job(image="", digest="", mountpoint="/", rootfs=empty, options=MountOptions())
    kept = Kept(job=job, device=0, page=0, counters="", since=0.0, known=Known("/", None, None, None))
    from_json(to_json(Order(kept=kept, fds=(0,), keeper=0, journal=False)), Order)
    record = KeptRecord(keeper=0, counters="", state=0, began=0.0)
    to_json(MountRecord(image="", digest="", mountpoint="/", engine="erofs", pid=0, since=0.0, kept=record))
    to_json(MountReply())
    runtime_directory()
    mount_table()


class Worker(NamedTuple):
    """A mount, as its worker sees it."""

    kept: Kept
    state: int
    """Descriptor of the file with `kept`, for the next keeper."""
    counters: Counters
    keeper: int
    """PID."""
    journal: bool
    idle_seconds: float
    sharing: tuple[socket.socket, int] | None
    """The connection to share spans over, and the descriptor of the hints."""

    def mount(self, namespace: int, expected: tuple[int, ...], client: socket.socket) -> int:
        """Mount, answer the client, and serve; return the exit status.

        The client is in an open mount namespace, with the root directory `expected`.
        """
        job = self.kept.job
        try:
            runtime = runtime_directory()  # the keeper's, not one in the namespace
            _enter(namespace, expected)
            job = self._log_to(job, runtime)
            cache = span_cache(job)
            with ExitStack() as lock:
                lock.enter_context(claimed(job, runtime))
                answer = partial(self._answer, client)
                serve_mounted(job, runtime, cache, partial(self._mount, cache), lock.close, answer)
        except _UnfitError as error:
            return self._fail(client, MountReply(unfit=str(error)))
        except (OcifsError, MemoryError, RuntimeError, ImportError, OSError) as error:
            failure = reportable(error)
            if self.counters.state == MOUNTED:  # the client has given up, or the end of the mount failed
                log_failure("serving", failure)
                self.counters.state = ENDED
                return failure.exit_code
            return self._fail(client, MountReply(error=str(failure), exit_code=failure.exit_code))
        self.counters.state = ENDED
        return 0

    def resume(self, predecessor: int | None, pid: int, woken: int = UNPREPARED) -> int:
        """Serve a mount instead of the worker with the pidfd `predecessor`, which is ended first.

        `pid` is that of the last worker, whose record is removed. A dormant worker has taken over already, and `woken`
        says how it has woken up. Return the exit status.
        """
        runtime = runtime_directory()
        self.kept.write(self.state)
        job = self._log_to(self.kept.job, runtime)
        self.counters.activity = AWAKE
        if woken == OVER:
            return self._clear_up(runtime, pid)
        cache = span_cache(job)
        before = read_record(runtime, pid)
        pack = None if before is None else before.hot_pack
        try:
            serve_mounted(
                job,
                runtime,
                cache,
                partial(self._resume, cache, predecessor, pack, woken == STOPPED),
                partial(_forget, pid),
                lambda reply: None,
            )
        except _EndedError:
            return self._clear_up(runtime, pid)
        self.counters.state = ENDED
        return 0

    def prepare(self, predecessor: int | None, pid: int, file: int) -> int:
        """Take over from the worker with the pidfd `predecessor`, and the PID `pid`, for the parent of this process.

        `file` is the open file for its record. Return `PREPARED` if it is to wait for a request, or `UNPREPARED`,
        `OVER`.
        """
        runtime = runtime_directory()
        before = read_record(runtime, pid)
        if before is None:
            return UNPREPARED
        self.kept.write(self.state)
        if predecessor is not None:
            _end(predecessor)
        self.counters.activity = DORMANT
        kept = msgspec.structs.replace(self._record(), dormant=True)
        os.write(file, to_json(msgspec.structs.replace(before, pid=os.getppid(), kept=kept)))
        _forget(pid)
        return PREPARED if take_over(self.kept.device) else OVER

    def _clear_up(self, runtime: TrustedDirectory, pid: int) -> int:
        """Clear what is left of a mount that has ended, and of the worker `pid`; return the exit status."""
        known = self.kept.known
        assert known is not None  # noqa: S101 - it was mounted
        if MountIdentity(known.path, known).clear():
            log_aborted(known.path)
        remove_mountpoint(known.path)
        for each in {pid, os.getpid()}:
            runtime.unlink(f"{each}.json")
        self.counters.state = ENDED
        return 0

    def _log_to(self, job: Job, runtime: TrustedDirectory) -> Job:
        """Log to the file of the job, else to the journal or the log of the keeper; return the job with that.

        Raises MountError.
        """
        default = str(runtime.path / LOG)
        if self.journal and job.options.log in {None, default}:
            logging.getLogger().addHandler(JournalHandler(job.mountpoint, job.image))
            return job
        log = job.options.log or default
        open_log(log, runtime, self.kept.log)
        return msgspec.structs.replace(job, options=msgspec.structs.replace(job.options, log=log))

    def _mount(self, cache: SpanCache, rootfs: Rootfs) -> Mounted:
        engine = self._engine(rootfs)
        try:
            device = engine.mount()
        except MountError as error:
            if self.kept.job.options.engine == "erofs":
                raise MountError(f"{error}: use --engine fuse instead") from None
            raise _UnfitError(str(error)) from None
        msgspec.structs.replace(self.kept, known=engine.known).write(self.state)
        return self._mounted(engine, device, cache, rootfs)

    def _resume(
        self, cache: SpanCache, predecessor: int | None, pack: PackRecord | None, stop: bool, rootfs: Rootfs
    ) -> Mounted:
        if not self.counters.is_unread:  # the first reads were recorded before, or nothing records them
            rootfs.served.recording = None
        self.counters.is_unread = False
        engine = self._engine(rootfs)
        if predecessor is not None:
            _end(predecessor)
        assert self.kept.known is not None  # noqa: S101 - it was mounted
        if not engine.resume(self.kept.known):
            raise _EndedError
        if stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return self._mounted(engine, self.kept.known.device, cache, rootfs)._replace(resumed=True, hot_pack=pack)

    def _engine(self, rootfs: Rootfs) -> "_KeptEngine":
        return _KeptEngine(rootfs, self.kept.job, Connection(self.kept.device, self.counters, self.idle_seconds))

    def _mounted(self, engine: ErofsEngine, device: str | None, cache: SpanCache, rootfs: Rootfs) -> Mounted:
        progress = partial(_note_progress, self.counters, rootfs)
        exchange = None
        if self.sharing is not None:
            exchange = cache.sharing = SpanExchange(*self.sharing, rootfs.served.layers, cache)
        self.counters.follow(partial(_work_of, cache, rootfs, exchange))
        progress()
        return Mounted(engine, device, None, self.kept.since, self._record(), progress)

    def _record(self) -> KeptRecord:
        return KeptRecord(keeper=self.keeper, counters=self.kept.counters, state=self.state, began=time.time())

    def _answer(self, client: socket.socket, reply: MountReply) -> None:
        self.counters.state = MOUNTED
        with client:
            client.sendall(to_json(reply))

    def _fail(self, client: socket.socket, reply: MountReply) -> int:
        self.counters.state = FAILED
        try:
            with client:
                client.sendall(to_json(reply))
        except OSError:  # the client is gone
            return CRASHED
        return reply.exit_code


class _UnfitError(Exception):
    """Only a daemon of the command itself can mount there."""


class _EndedError(Exception):
    """The mount was unmounted meanwhile."""


class _KeptEngine(ErofsEngine):
    """Ends the process without unmounting if serving fails unexpectedly: the keeper replaces it."""

    def serve(self, stop: int, ready: Callable[[], None]) -> None:
        ready()
        try:
            super().serve(stop, lambda: None)
        except BaseException:  # noqa: BLE001 - the boundary of this process
            _log.exception("%s: its worker failed", self.known.path)
            os._exit(CRASHED)


def _enter(namespace: int, expected: tuple[int, ...]) -> None:
    """Enter the mount namespace of the command. Raises OSError, _UnfitError."""
    try:
        if os.fstat(namespace).st_ino != os.stat("/proc/self/ns/mnt").st_ino:
            syscalls.enter_mount_namespace(namespace)
    except OSError as error:
        raise _UnfitError(f"the service cannot enter the mount namespace of the command: {error.strerror}") from None
    finally:
        os.close(namespace)
    if root() != expected:
        raise _UnfitError("the command has another root directory than the service")


def _end(predecessor: int) -> None:
    """Kill the process with this pidfd, and wait for its exit."""
    try:
        signal.pidfd_send_signal(predecessor, signal.SIGKILL)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(predecessor, select.POLLIN)
    if not poll.poll(_EXIT_MILLISECONDS):
        _log.warning("the worker before this one does not exit")


def _forget(pid: int) -> None:
    """Remove the record of the worker before this one."""
    if pid != os.getpid():
        runtime_directory().unlink(f"{pid}.json")


def _work_of(cache: SpanCache, rootfs: Rootfs, exchange: SpanExchange | None) -> tuple[int, int, int]:
    taken = 0 if exchange is None else exchange.taken
    return cache.loaded, taken, sum(file.fetched for layer in rootfs.served.layers for file in layer.lazy)


def _note_progress(counters: Counters, rootfs: Rootfs) -> None:
    """Note how much of the lazy layers is there, as far as the file system counts it."""
    lazy = [file for layer in rootfs.served.layers for file in layer.lazy]
    done = sum(min(blob.size, os.fstat(blob.fd).st_blocks * 512) for blob in lazy)
    verified = sum(layer.verification.is_verified for layer in rootfs.served.layers)
    counters.note_progress(done, sum(blob.size for blob in lazy), verified)
    counters.note_work()
