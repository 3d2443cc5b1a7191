"""Serving one mount: `python -m ocifs.mount.daemon FD`, started by `ocifs.mount.process`; or in the foreground.

The daemon lives as long as the mount: unmounting ends it, and on SIGTERM or SIGINT it unmounts. It ignores SIGHUP,
since it has no terminal. It answers once on its socket, and then writes only to its log.
"""

import contextlib
import importlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

import msgspec

from ocifs.errors import MissingExtraError, MountError, OcifsError, missing_extra, printable_path, shortage
from ocifs.image.hot_pack import published_name
from ocifs.image.rootfs import Rootfs
from ocifs.indexes.refuted import note_refuted
from ocifs.layer.layer import Layer
from ocifs.layer.span_cache import SpanCache
from ocifs.layer.span_memory import SpanMemory
from ocifs.mount.background import in_background, is_unfinished
from ocifs.mount.engine import Engine, stop_on_signals
from ocifs.mount.erofs_engine import ErofsEngine
from ocifs.mount.handoff import Handoff
from ocifs.mount.hot_start import HotStart
from ocifs.mount.job import Job, MountReply, receive_job
from ocifs.mount.lock import locked
from ocifs.mount.mountinfo import detach, mount_at
from ocifs.mount.mountpoint import check_free
from ocifs.mount.new_mountpoint import remove_mountpoint
from ocifs.mount.rate_limited_log import OneLineFormatter, log_failure
from ocifs.mount.record import (
    LOG,
    KeptRecord,
    MountedLayer,
    MountRecord,
    PackRecord,
    recorded,
    runtime_directory,
    to_json,
)
from ocifs.mount.unmount import replace_mount
from ocifs.spec.digest import Digest
from ocifs.trusted_directory import TrustedDirectory

_ON_DEMAND = (
    "ocifs.sources.registry.source",
    "ocifs.sources.registry.hosts",
    "ocifs.compression.blocks",
    "ocifs.compression.checkpoint_finder",
    "ocifs.compression.rapid",
    "ocifs.compression.subprocess_pass",
    "ocifs.compression.zng",
)


def main(arguments: list[str]) -> int:
    """Serve the job that comes through the socket whose descriptor is the argument; return the exit status."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # end quietly while there is no mount
    if os.geteuid():  # load the engine while the command prepares the job
        with contextlib.suppress(ModuleNotFoundError):  # an extra of ocifs; the job ends in the error
            importlib.import_module("ocifs.mount.fuse_engine")
    with socket.socket(fileno=int(arguments[0])) as connection:
        try:
            job = receive_job(connection)
            if job is not None:
                serve(job, partial(_answer, connection))
        except (OcifsError, MemoryError, RuntimeError, ImportError, OSError) as error:
            failure = reportable(error)
            if connection.fileno() < 0:  # it was mounted
                log_failure("serving", failure)
            else:
                _answer(connection, MountReply(error=str(failure), exit_code=failure.exit_code))
            return failure.exit_code
    return 0


def _answer(connection: socket.socket, reply: MountReply) -> None:
    # Not earlier: autofs lets only the process group of automount(8) or systemd mount on its directories, and all other
    # processes wait for that mount.
    with contextlib.suppress(PermissionError):  # it leads one
        os.setsid()
    connection.sendall(to_json(reply))
    connection.close()
    null = os.open(os.devnull, os.O_RDWR)  # release the file that the command reads stderr from
    os.dup2(null, 2)
    os.close(null)


def reportable(error: Exception) -> OcifsError:
    """Return the error to report to the user. Raises `error` itself if it is a defect of ocifs."""
    if isinstance(error, OcifsError):
        return error
    if (known := missing_extra(error) or shortage(error)) is not None:
        return known
    raise error


def serve(job: Job, answer: Callable[[MountReply], None], ending: Callable[[], None] = lambda: None) -> None:
    """Mount, `answer` how, and serve until unmounted; call `ending` before the unmounting.

    Raises:
        MountError: Mounting failed; nothing is left behind.
    """
    runtime = runtime_directory()
    open_log(job.options.log, runtime)
    with ExitStack() as lock:
        lock.enter_context(claimed(job, runtime))
        cache = span_cache(job)
        serve_mounted(job, runtime, cache, partial(_mount, job), lock.close, answer, ending=ending)


def span_cache(job: Job) -> SpanCache:
    """Return the span cache of a mount, whose memory is bounded by its capacity. Raises OSError."""
    capacity = job.options.span_cache
    return SpanCache(capacity, job.options.read_timeout, SpanMemory(capacity))


@contextmanager
def claimed(job: Job, runtime: TrustedDirectory) -> Iterator[None]:
    """Hold the lock of the mountpoint, and check that it is free to mount on. Raises MountError."""
    with locked(job.mountpoint, runtime=runtime):
        if job.options.replace:
            replace_mount(job.mountpoint)
        mounted = mount_at(job.mountpoint)
        if not (job.swap and mounted is not None and mounted.digest is not None):
            check_free(job.mountpoint, printable_path(job.mountpoint))
        yield


class Mounted(NamedTuple):
    """How a mount was made."""

    engine: Engine
    device: str | None = None
    """major:minor, if it is known."""
    reason: str | None = None
    """Why the erofs engine could not mount, if it was tried."""
    since: float | None = None
    """When it was mounted, in seconds since the epoch; None: now."""
    kept: KeptRecord | None = None
    progress: Callable[[], None] = lambda: None
    """Called after each piece of background work."""
    resumed: bool = False
    """Whether another process has served the mount before."""
    hot_pack: PackRecord | None = None
    """The hot pack that this other process has saved the first reads in."""


def serve_mounted(  # noqa: PLR0913 - two callers, which differ in all of it
    job: Job,
    runtime: TrustedDirectory,
    cache: SpanCache,
    mount: Callable[[Rootfs], Mounted],
    recorded_now: Callable[[], None],
    answer: Callable[[MountReply], None],
    *,
    ending: Callable[[], None] = lambda: None,
) -> None:
    """Open the rootfs, `mount` it, record that, `answer`, serve until unmounted, call `ending`. Raises MountError.

    `runtime` is open, because mounting may leave the mount namespace in which its path is valid (`MountIdentity`).
    """
    with (
        stop_on_signals() as stop,
        job.rootfs.open(cache) as rootfs,
        recorded(runtime) as write,
        ExitStack() as stack,
    ):
        hot = HotStart(job.rootfs, rootfs, job.options.hot_pack)
        mounted = mount(rootfs)
        engine = mounted.engine
        stack.callback(hot.finish)
        stack.callback(remove_mountpoint, job.mountpoint)
        stack.callback(engine.close)
        stack.callback(hot.stop)
        record = _Record(write, _record(job, rootfs, mounted))
        if mounted.resumed:
            hot.resume(engine, record.note_pack)
        else:
            hot.start(engine, record.note_pack)
        if is_unfinished(rootfs):
            load_modules()
        if job.options.prefetch:  # before the answer, which is an error if the system refuses the thread
            report = partial(record.report, rootfs)
            note = partial(_note_refuted, job.rootfs)
            stack.enter_context(in_background(rootfs, job.options.prefetch_rate, report, mounted.progress, hot, note))
        recorded_now()
        engine.serve(stop, partial(answer, MountReply(engine=engine.name, reason=mounted.reason)))
        ending()


def _mount(job: Job, rootfs: Rootfs) -> Mounted:
    """Mount with the first engine that can."""
    reason = None
    if job.options.engine != "fuse":
        erofs = ErofsEngine(rootfs, job)
        try:
            return Mounted(erofs, erofs.mount())
        except MountError as error:
            if job.options.engine == "erofs":
                raise MountError(f"{error}: use --engine fuse instead") from None
            reason = str(error)
    try:
        from ocifs.mount.fuse_engine import FuseEngine  # trio and pyfuse3 take longer to load than everything else
    except ModuleNotFoundError as error:
        if reason is None or (missing := missing_extra(error)) is None:
            raise
        raise MissingExtraError(f"{reason}; {missing}") from None
    if job.ids is not None:
        raise MountError(f"{reason}: only the erofs engine maps ids")
    fuse = FuseEngine(rootfs, job)
    if job.swap and mount_at(job.mountpoint) is not None:  # fusermount3 cannot mount beneath it
        detach(job.mountpoint)
    return Mounted(fuse, fuse.mount(), reason)


def _note_refuted(handoff: Handoff, layer: Layer | None, reason: str) -> None:
    """Let no other mount use the published index of a layer, or the published hot pack, which is false."""
    if layer is None:
        pack = handoff.pack
        published = None if pack is None or pack.digest is None else published_name(Digest(pack.digest))
        blob = ""
    else:
        published, blob = layer.verification.published, layer.index.summary.blob_digest
    if handoff.cache is not None and published is not None:
        with contextlib.suppress(OcifsError, OSError):  # a full disk: this mount fails all the same
            note_refuted(handoff.cache.open(), published, blob, reason)


def load_modules() -> None:
    """Import what fetching and verification load on demand, so that an upgrade on disk never mixes two versions.

    A mount of verified local layers loads nothing later, and is spared the memory.
    """
    for name in _ON_DEMAND:
        importlib.import_module(name)


def _record(job: Job, rootfs: Rootfs, mounted: Mounted) -> MountRecord:
    return MountRecord(
        image=job.image,
        digest=job.digest,
        mountpoint=job.mountpoint,
        engine=mounted.engine.name,
        reason=mounted.reason,
        pid=os.getpid(),
        since=time.time() if mounted.since is None else mounted.since,
        log=job.options.log,
        bundle=job.bundle,
        device=mounted.device,
        kept=mounted.kept,
        hot_pack=mounted.hot_pack,
        layers=tuple(map(_layer_record, rootfs.served.layers)),
    )


class _Record:
    """The record of the mount, which several threads change."""

    def __init__(self, write: Callable[[MountRecord], None], record: MountRecord) -> None:
        self._write = write
        self._record = record
        self._lock = threading.Lock()
        write(record)

    def report(self, rootfs: Rootfs, refuted: str | None) -> None:
        """Record the results of background work."""
        self._change(layers=tuple(map(_layer_record, rootfs.served.layers)), refuted=refuted)

    def note_pack(self, pack: PackRecord) -> None:
        """Record the hot pack that the first reads were saved in."""
        self._change(hot_pack=pack)

    def _change(self, **members: object) -> None:
        with self._lock, contextlib.suppress(MountError):  # the log has a refutation as well
            self._record = msgspec.structs.replace(self._record, **members)
            self._write(self._record)


def _layer_record(layer: Layer) -> MountedLayer:
    summary = layer.index.summary
    return MountedLayer(
        blob=summary.blob_digest,
        diff_id=summary.diff_id,
        verified_at=layer.verified_at,
        spans=layer.index.span_count,
        index=layer.verification.published,
    )


def open_log(log: str | None, runtime: TrustedDirectory, opened: int | None = None) -> None:
    """Send the log messages of this process to a file, or to stderr; `opened` is its descriptor, if it is open.

    Raises MountError.
    """
    handler: logging.Handler
    try:
        if opened is not None:
            file = os.fdopen(opened, "a", encoding="utf-8", errors="backslashreplace", closefd=False)
            handler = logging.StreamHandler(file)
        elif log is None:
            handler = logging.StreamHandler()
        elif log == str(runtime.path / LOG):
            fd = runtime.open_file(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            handler = logging.StreamHandler(os.fdopen(fd, "a", encoding="utf-8", errors="backslashreplace"))
        else:
            handler = logging.FileHandler(log)
    except OSError as error:
        raise MountError(f"cannot write the log {printable_path(log or '')}: {error.strerror}") from None
    handler.setFormatter(OneLineFormatter(f"%(asctime)s ocifs[{os.getpid()}] %(levelname)s: %(message)s"))
    logging.getLogger().addHandler(handler)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
