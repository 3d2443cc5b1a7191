"""Open a file of an extracted layer, whose names and symlinks come from an image (openat2(2)).

The kernel resolves the whole path as if the layer's directory were the root: neither `..` nor an absolute symlink leads
out of it, no mount in it is entered, and a concurrent rename cannot change that.
"""

import errno
import os
import struct

_OPENAT2 = 437
"""The number of the system call, on every architecture that Linux 5.6 and Python share."""
_HOW = struct.Struct("=QQQ")  # flags, mode, resolve
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
_RESOLVE_NO_XDEV, _RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x1, 0x2, 0x10
_TRIES = 100
"""The kernel gives up (EAGAIN) if a directory is renamed meanwhile."""


def open_in_root(root: int, path: bytes) -> int:
    """Return a descriptor of the file at `path` below the directory `root`; opening a FIFO does not block.

    Raises:
        OSError: It cannot be opened; ENOSYS before Linux 5.6.
    """
    import ctypes  # only extracted layers need it

    libc = ctypes.CDLL(None, use_errno=True)
    how = _HOW.pack(_FLAGS, 0, _RESOLVE_NO_XDEV | _RESOLVE_NO_MAGICLINKS | _RESOLVE_IN_ROOT)
    for _ in range(_TRIES):
        fd: int = libc.syscall(_OPENAT2, root, path, how, len(how))
        if fd >= 0:
            return fd
        if ctypes.get_errno() != errno.EAGAIN:
            break
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
