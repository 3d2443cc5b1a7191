"""Serving one mount: `python -m ocifs.mount.daemon FD`, started by `ocifs.mount.process`; or in the foreground.

It lives as long as the mount: whoever unmounts ends it, and SIGTERM or SIGINT make it unmount. SIGHUP means nothing to
it, since it has no terminal. It answers through its socket once, and from then on writes only to its log.
"""

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pyfuse3
import trio

from ocifs.errors import MountError, OcifsError, printable_path
from ocifs.image.rootfs import Rootfs
from ocifs.layer.span_cache import SpanCache
from ocifs.mount.job import Answer, Job, receive_job
from ocifs.mount.mountinfo import FSTYPE
from ocifs.mount.operations import RootfsOperations
from ocifs.mount.place import Place
from ocifs.mount.reading import Reading
from ocifs.mount.record import MountRecord, recorded


def main(arguments: list[str]) -> int:
    """Serve the job that comes through the socket that the argument names; return the exit status."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nobody at a terminal waits for a daemon without a job
    with socket.socket(fileno=int(arguments[0])) as connection:
        job = receive_job(connection)
        if job is None:
            return 0

        def answer(reply: Answer) -> None:
            connection.sendall(msgspec.json.encode(reply))
            connection.close()

        def mounted() -> None:
            answer(Answer())
            _leave_stderr()

        try:
            serve(job, mounted)
        except OcifsError as error:
            answer(Answer(str(error), error.exit_code))
            return error.exit_code
    return 0


def serve(job: Job, mounted: Callable[[], None]) -> None:
    """Mount, call `mounted`, and serve until unmounted. Raises MountError when it cannot be mounted."""
    _open_log(job)
    record = MountRecord(
        image=job.image,
        digest=job.digest,
        mountpoint=job.mountpoint,
        engine="fuse",
        pid=os.getpid(),
        since=time.time(),
        log=job.log,
    )
    with ExitStack() as stack:
        rootfs = stack.enter_context(Rootfs.received(job.rootfs, SpanCache(job.span_cache)))
        stack.enter_context(recorded(record))
        try:
            pyfuse3.init(RootfsOperations(rootfs, Reading(rootfs.served)), job.mountpoint, _mount_options(job))
        except RuntimeError:
            raise MountError(f"cannot mount on {printable_path(job.mountpoint)}: {_said_by_libfuse()}") from None
        place = Place(job.mountpoint)
        mounted()
        try:
            trio.run(_until_unmounted)
        finally:
            place.unmount_from_outside()
            pyfuse3.close(unmount=place.is_ours())


async def _until_unmounted() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_unmount_on_signal)
        await pyfuse3.main()
        nursery.cancel_scope.cancel()


async def _unmount_on_signal() -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            pyfuse3.terminate()
            return


def _mount_options(job: Job) -> set[str]:
    options = {
        "ro",
        "default_permissions",
        f"fsname={job.digest}",
        f"subtype={FSTYPE.partition('.')[2]}",
        "suid" if job.suid else "nosuid",
        "dev" if job.dev else "nodev",
    }
    return options | {"allow_other"} if job.allow_other else options


def _open_log(job: Job) -> None:
    try:
        handler = logging.StreamHandler() if job.log is None else logging.FileHandler(job.log)
    except OSError as error:
        raise MountError(f"cannot write the log {printable_path(job.log or '')}: {error.strerror}") from None
    handler.setFormatter(logging.Formatter(f"%(asctime)s ocifs[{os.getpid()}] %(levelname)s: %(message)s"))
    logging.getLogger().addHandler(handler)


def _leave_stderr() -> None:
    """Let go of the file that took complaints until now."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 2)
    os.close(null)


def _said_by_libfuse() -> str:
    """Return the last line that libfuse wrote to stderr, if that is a file to read back."""
    try:
        lines = Path("/proc/self/fd/2").read_text(errors="replace").split("\n")
    except OSError:
        lines = []
    return next((line for line in reversed(lines) if line.strip()), "libfuse refuses")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
