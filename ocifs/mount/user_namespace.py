"""A user namespace that only describes a mapping of ids, for an idmapped mount (mount_setattr(2)).

A process makes it and waits until its maps are written; then the open file alone keeps it. This module knows no mount.
"""

import os
from collections.abc import Sequence

from ocifs.id_ranges import IdMap, IdRange
from ocifs.mount import syscalls


def user_namespace(ids: IdMap) -> int:
    """Return a new user namespace with the mapping `ids` as an open file. This process must have a single thread.

    Raises:
        OSError: This process may not make it, or the kernel refuses the ranges.
    """
    ready, signal_ready = os.pipe2(os.O_CLOEXEC)
    wait, let_go = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _wait_inside(signal_ready, wait, let_go)
    try:
        os.close(signal_ready)
        if failed := os.read(ready, 4):
            error = int.from_bytes(failed)
            raise OSError(error, os.strerror(error))
        for name, ranges in zip(("uid_map", "gid_map"), ids, strict=True):
            _write_map(f"/proc/{child}/{name}", ranges)
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for fd in (ready, wait, let_go):
            os.close(fd)
        os.waitpid(child, 0)


def _wait_inside(signal_ready: int, wait: int, let_go: int) -> None:
    """Enter a new user namespace, and end once the parent has closed its end of the pipe."""
    try:
        os.close(let_go)
        syscalls.unshare_users()
        os.close(signal_ready)
        os.read(wait, 1)
    except OSError as error:
        os.write(signal_ready, (error.errno or 1).to_bytes(4))
    finally:
        os._exit(0)


def _write_map(path: str, ranges: Sequence[IdRange]) -> None:
    """Write a map, which the kernel accepts in a single write only."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"".join(b"%d %d %d\n" % each for each in ranges))
    finally:
        os.close(fd)
