"""Serving one mount: `python -m ocifs.mount.daemon FD`, started by `ocifs.mount.process`; or in the foreground.

It lives as long as the mount: whoever unmounts ends it, and SIGTERM or SIGINT make it unmount. SIGHUP means nothing to
it, since it has no terminal. It answers through its socket once, and from then on writes only to its log.
"""

import contextlib
import importlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import msgspec

from ocifs.errors import MountError, OcifsError, printable_path, shortage
from ocifs.image.rootfs import Rootfs
from ocifs.layer.layer import Layer
from ocifs.layer.profile import Profile
from ocifs.layer.span_cache import SpanCache
from ocifs.mount.background import in_background
from ocifs.mount.engine import Engine, stop_on_signals
from ocifs.mount.erofs_engine import ErofsEngine
from ocifs.mount.job import Job, MountReply, receive_job
from ocifs.mount.lock import locked
from ocifs.mount.mountpoint import check_free
from ocifs.mount.rate_limited_log import OneLine, complain
from ocifs.mount.record import LOG, EngineName, MountRecord, Proof, recorded, runtime_directory, to_json
from ocifs.mount.unmount import replace_mount


def main(arguments: list[str]) -> int:
    """Serve the job that comes through the socket that the argument names; return the exit status."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nobody at a terminal waits for a daemon without a job
    if os.geteuid():  # what it will need, while the job is being prepared
        importlib.import_module("ocifs.mount.fuse_engine")
    with socket.socket(fileno=int(arguments[0])) as connection:

        def answer(reply: MountReply) -> None:
            connection.sendall(to_json(reply))
            connection.close()

        def mounted(engine: EngineName, reason: str | None) -> None:
            answer(MountReply(engine=engine, reason=reason))
            _leave_stderr()

        try:
            job = receive_job(connection)
            if job is not None:
                serve(job, mounted)
        except (OcifsError, MemoryError, RuntimeError, OSError) as error:
            told = _told(error)
            if connection.fileno() < 0:  # it has been answered, and the mount has ended
                complain("serving", told)
            else:
                answer(MountReply(error=str(told), exit_code=told.exit_code))
            return told.exit_code
    return 0


def _told(error: Exception) -> OcifsError:
    """Return an error as the user is told it. Raises `error` itself if it is none of the system's."""
    if isinstance(error, OcifsError):
        return error
    if (short := shortage(error)) is not None:
        return short
    raise error


def serve(job: Job, mounted: Callable[[EngineName, str | None], None]) -> None:
    """Mount, call `mounted` with the engine and why not with a better one, and serve until unmounted.

    Raises:
        MountError: It cannot be mounted; nothing is left behind.
    """
    _open_log(job)
    with ExitStack() as held:
        held.enter_context(locked(job.mountpoint))
        if job.replace:
            replace_mount(job.mountpoint)
        check_free(job.mountpoint, printable_path(job.mountpoint))

        def unlocked(engine: EngineName, reason: str | None) -> None:
            held.close()
            mounted(engine, reason)

        _serve(job, unlocked)


def _serve(job: Job, mounted: Callable[[EngineName, str | None], None]) -> None:
    """Mount by the first engine that can, and serve."""
    with stop_on_signals() as stop, job.rootfs.open(SpanCache(job.span_cache, job.read_timeout)) as rootfs:
        reason = None
        if job.engine != "fuse":
            try:
                _serve_by(ErofsEngine(rootfs, job), stop, rootfs, job, mounted, None)
                return
            except MountError as error:
                if job.engine == "erofs":
                    raise MountError(f"{error}: use --engine fuse instead") from None
                reason = str(error)
        from ocifs.mount.fuse_engine import FuseEngine  # trio and pyfuse3 take longer to load than all the rest

        _serve_by(FuseEngine(rootfs, job), stop, rootfs, job, mounted, reason)


def _serve_by(
    engine: Engine,
    stop: int,
    rootfs: Rootfs,
    job: Job,
    mounted: Callable[[EngineName, str | None], None],
    reason: str | None,
) -> None:
    # Opened before it mounts: then it may leave the mount namespace in which this path leads here (`mount.place`).
    runtime = runtime_directory()
    record = MountRecord(
        image=job.image,
        digest=job.digest,
        mountpoint=job.mountpoint,
        engine=engine.name,
        reason=reason,
        pid=os.getpid(),
        since=time.time(),
        log=job.log,
        bundle=job.bundle,
        proven=tuple(map(_proof, rootfs.served.layers)),
    )
    with ExitStack() as stack:

        def attached(device: str | None) -> None:
            attached_record = msgspec.structs.replace(record, device=device)
            write = stack.enter_context(recorded(attached_record, runtime))
            if job.prefetch:  # before the answer, which would be an error where there is no thread for it
                tell = partial(_tell, write, attached_record, rootfs)
                stack.enter_context(in_background(rootfs, job.prefetch_rate, tell))
            mounted(engine.name, reason)

        engine.serve(stop, attached)


def _tell(
    write: Callable[[MountRecord], None],
    record: MountRecord,
    rootfs: Rootfs,
    refuted: str | None,
    touched: Profile | None,
) -> None:
    """Record what the work in the background has shown."""
    proven = tuple(map(_proof, rootfs.served.layers))
    with contextlib.suppress(MountError):  # what it says is in the log as well
        write(msgspec.structs.replace(record, proven=proven, refuted=refuted, touched=touched or {}))


def _proof(layer: Layer) -> Proof:
    summary = layer.index.summary
    return Proof(
        blob=summary.blob_digest,
        diff_id=summary.diff_id,
        at=None if layer.claimed else layer.proven_at or layer.index.made,
        spans=layer.index.span_count,
        index=layer.published,
    )


def _open_log(job: Job) -> None:
    runtime = runtime_directory()
    handler: logging.Handler
    try:
        if job.log is None:
            handler = logging.StreamHandler()
        elif job.log == str(runtime.path / LOG):
            fd = runtime.open_file(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            handler = logging.StreamHandler(os.fdopen(fd, "a", encoding="utf-8", errors="backslashreplace"))
        else:
            handler = logging.FileHandler(job.log)
    except OSError as error:
        raise MountError(f"cannot write the log {printable_path(job.log or '')}: {error.strerror}") from None
    handler.setFormatter(OneLine(f"%(asctime)s ocifs[{os.getpid()}] %(levelname)s: %(message)s"))
    logging.getLogger().addHandler(handler)


def _leave_stderr() -> None:
    """Let go of the file that took complaints until now."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 2)
    os.close(null)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
