"""The process that serves a mount: starting it, giving it its job, and hearing from it.

The daemon is a new program, not a fork: it maps the tree image, is given the open files it reads, and holds nothing of
what indexing needed. It is started before the image is opened, so that both get ready at the same time, and gets its
job through a socket when there is one. If none comes it ends, and nothing was mounted.
"""

import array
import os
import socket
import subprocess
import sys
from types import TracebackType
from typing import Self

import msgspec

from ocifs.errors import MountError, OcifsError, printable_path
from ocifs.image.rootfs import Handoff

_DAEMON = "ocifs.mount.daemon"
_COMPLAINT_MAX = 64 << 10
_ANSWER_MAX = 64 << 10
_FDS_AT_ONCE = 250  # the kernel takes 253 in one message
_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(256 << 10)}
"""glibc, give evicted spans back to the system: else what is freed of the span cache stays, up to twice its size."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """All that the daemon is told."""

    image: str
    digest: str
    mountpoint: str
    rootfs: Handoff
    span_cache: int
    """Bytes."""
    allow_other: bool = False
    suid: bool = False
    dev: bool = False
    log: str | None = None
    """File for warnings; None: stderr."""


class Answer(msgspec.Struct, frozen=True):
    """What the daemon answers once it has tried to mount: an error, or none."""

    error: str | None = None
    exit_code: int = 0


class Daemon:
    """A daemon that waits for its job. A context manager: a daemon without a job by the end of it is ended."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._complaints = os.memfd_create("ocifs-complaints")
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", _DAEMON, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._complaints,
                cwd="/",
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env=os.environ | _ENVIRONMENT,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        os.close(self._complaints)
        if kind is not None:
            self._process.wait()
        self._process.returncode = 0  # if it has a mount it outlives this process: there is nothing to wait for

    def mount(self, job: Job) -> None:
        """Give the daemon its job, and return when the mount answers.

        Raises:
            MountError: It could not be mounted; nothing is left behind.
        """
        try:
            send_job(self._socket, job)
            answer = self._socket.recv(_ANSWER_MAX)
        except OSError:
            answer = b""
        if not answer:
            status = self._process.wait()
            why = _last_line(self._complaints) or f"the daemon ended with status {status}"
            raise MountError(f"cannot mount on {printable_path(job.mountpoint)}: {why}")
        reply = msgspec.json.decode(answer, type=Answer)
        if reply.error is not None:
            error = OcifsError(reply.error)
            error.exit_code = reply.exit_code
            raise error
        os.stat(job.mountpoint)  # comes back when the daemon has answered the kernel


def send_job(connection: socket.socket, job: Job) -> None:
    """Send a job with its open files."""
    fds = sorted(job.rootfs.fds())
    message = msgspec.json.encode((job, fds))
    connection.sendall(len(message).to_bytes(4, "little"))
    for first in range(0, len(fds), _FDS_AT_ONCE):
        socket.send_fds(connection, [b"\0"], fds[first : first + _FDS_AT_ONCE])
    connection.sendall(message)


def receive_job(connection: socket.socket) -> Job | None:
    """Receive a job, its file descriptors being this process's own; None if there is none."""
    size = int.from_bytes(_receive(connection, 4), "little")
    if not size:
        return None
    received: list[int] = []
    message = b""
    while len(message) < size:
        data, ancillary, _, _ = connection.recvmsg(size, socket.CMSG_SPACE(_FDS_AT_ONCE * 4))
        if not data:
            return None
        for _, _, packed in ancillary:
            fds = array.array("i")
            fds.frombytes(packed)
            received += fds
        message += data.lstrip(b"\0")  # each batch of descriptors came with a NUL
    job, sent = msgspec.json.decode(message, type=tuple[Job, list[int]])
    return msgspec.structs.replace(job, rootfs=job.rootfs.renumbered(dict(zip(sent, received, strict=True))))


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := connection.recv(size - len(data))):
        data += more
    return data


def _last_line(fd: int) -> str:
    text = os.pread(fd, _COMPLAINT_MAX, 0).decode(errors="replace").strip()
    return printable_path(text.rpartition("\n")[2])
