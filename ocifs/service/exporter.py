"""The keeper's side of the metrics: it owns their socket, and runs the process that answers on it."""

import contextlib
import errno
import importlib.util
import ipaddress
import os
import socket
import stat
import subprocess
import sys
import time
from typing import Final

from ocifs.errors import MountError, printable_path, raise_if_short
from ocifs.service.protocol import listen_at

_DELAY: Final = 5.0
"""Seconds before another process is started for one that has ended."""
_BACKLOG: Final = 16
_PATH_MAX: Final = 107
"""Bytes of a path in the address of a Unix socket (unix(7))."""


def check_address(address: str) -> None:
    """Check where to serve metrics. Raises ValueError with what is wrong, MountError without prometheus_client."""
    if not address.startswith("unix:"):
        _host_and_port(address)
    elif not os.path.isabs(path := address.removeprefix("unix:")) or len(os.fsencode(path)) > _PATH_MAX:
        raise ValueError(f"the path of a Unix socket is absolute, and has at most {_PATH_MAX} bytes")
    if importlib.util.find_spec("prometheus_client") is None:
        raise MountError("metrics need prometheus_client: install it, or ocifs with the extra `metrics`")


def listen(address: str) -> socket.socket:
    """Return the listening socket. Raises MountError."""
    try:
        if address.startswith("unix:"):
            return _listen_at_path(address.removeprefix("unix:"))
        host, port = _host_and_port(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except (OSError, ValueError) as error:
        raise_if_short(error)
        why = error.strerror if isinstance(error, OSError) else error
        raise MountError(f"cannot serve metrics on {printable_path(address)}: {why}") from None
    return listener


def _listen_at_path(path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "it exists, and is not a socket")
        os.unlink(path)
    return listen_at(path, _BACKLOG)


def _host_and_port(address: str) -> tuple[str, int]:
    """Return host and port of a loopback address. Raises ValueError."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ValueError("write unix:PATH, or 127.0.0.1:PORT")
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ValueError("metrics are served to this machine only: write unix:PATH, or 127.0.0.1:PORT")
    return host, int(port)


class Exporter:
    """Runs the process; its owner watches `pidfd`, and calls `ended` and `start`."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.pidfd: int | None = None
        self.due: float | None = time.monotonic()
        """When to start the process, by the monotonic clock."""
        self._process: subprocess.Popen[bytes] | None = None
        self._reading, self._writing = os.pipe2(os.O_CLOEXEC)

    def start(self) -> None:
        """Start the process; if that fails, it is due again later."""
        self.due = None
        fds = (self.listener.fileno(), self._reading)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ocifs.service.metrics", *map(str, fds)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                pass_fds=fds,
                start_new_session=True,
            )
            self.pidfd = os.pidfd_open(self._process.pid)
        except OSError:
            self.due = time.monotonic() + _DELAY

    def ended(self) -> None:
        """Note the end of the process; another one is due."""
        assert self.pidfd is not None  # noqa: S101 - it was watched
        assert self._process is not None  # noqa: S101
        os.close(self.pidfd)
        self.pidfd = None
        self._process.wait()
        self.due = time.monotonic() + _DELAY
