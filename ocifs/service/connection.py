"""Connect to the service of root, if one runs and the command may use it.

The socket must lie in a directory that only root can fill or replace: the caller sends its environment and its files to
the listener. Under `sudo -E`, XDG_RUNTIME_DIR is another user's, who could point it to any listener of root. A command
connects before it imports anything else, so this module imports next to nothing.
"""

import errno
import os
import socket
import stat
import struct

SYSTEM_DIRECTORY = "/run/ocifs"
"""The runtime directory of root's service, unless XDG_RUNTIME_DIR names another."""
SERVICE = "service.sock"
"""Name of the keeper's socket in the runtime directory."""
_WELL_KNOWN = {SYSTEM_DIRECTORY, "/run/user/0/ocifs"}
"""Directories whose ancestors are root's on every system; others are checked from `/`."""
_CONNECT_SECONDS = 2.0
_NEVER = "OCIFS_NO_SERVICE"
_NO = {"", "0", "false", "no", "off", "n", "f"}
"""Values that leave a flag of the environment unset."""


def is_allowed(arguments: list[str]) -> bool:
    """Whether a command with these arguments may use the service."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--no-service" not in options and os.environ.get(_NEVER, "").lower() in _NO


def connect(name: str = SERVICE) -> socket.socket | None:
    """Connect to a socket of root's service, in the runtime directory or in `SYSTEM_DIRECTORY`; None without one.

    An XDG_RUNTIME_DIR that another user could change is ignored.
    """
    if os.geteuid() != 0:
        return None
    own = os.environ.get("XDG_RUNTIME_DIR")
    for directory in dict.fromkeys([*([os.path.join(own, "ocifs")] if own else []), SYSTEM_DIRECTORY]):
        if (connection := _connect(directory, name)) is not None:
            return connection
    return None


def _connect(directory: str, name: str) -> socket.socket | None:
    try:
        fd = _open(directory)
    except OSError:
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(_CONNECT_SECONDS)
        connection.connect(f"/proc/self/fd/{fd}/{name}")  # the path itself may be too long for an address
        _, uid, _ = struct.unpack("=iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != 0:
            raise PermissionError  # another user's process
    except OSError:
        connection.close()
        return None
    finally:
        os.close(fd)
    return connection


def _open(directory: str) -> int:
    """Open a directory that only root can fill or replace. Raises OSError."""
    if directory not in _WELL_KNOWN:
        from pathlib import Path

        from ocifs.trusted_directory import TrustedDirectory

        opened = TrustedDirectory.open(Path(directory))  # it closes its descriptor with the last reference
        return os.dup(opened.fd)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    status = os.fstat(fd)
    if status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        os.close(fd)
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    return fd
