"""Where a daemon has mounted: which mount is its own, and in which mount namespace.

A path is not enough to unmount by: another mount may lie on it by now, or the path may mean another directory. And a
daemon that stays in a private mount namespace keeps that alive, with its own mount in it; so it leaves, for the
namespace of PID 1, and its mount goes when the last process in there does (mount_namespaces(7)).
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ocifs.errors import MountError
from ocifs.mount import syscalls
from ocifs.mount.mountinfo import mount_at, unmount


class MountIdentity:
    """The mount that this process, which has but one thread, has just made at `path`."""

    def __init__(self, path: str) -> None:
        self.path = path
        mount = mount_at(path)
        self.device = mount.device if mount else None
        """major:minor."""
        self._id = syscalls.mount_id(path)
        self._left = _leave_private_namespace()

    def is_ours(self) -> bool:
        """Whether to unmount `path`, as this process sees it, is to unmount what it mounted.

        The kernel gives the device of a mount that is gone to the next one, so where mounts have IDs these decide.
        """
        if self._left is not None:
            return False
        if self._id is not None:
            return syscalls.mount_id(self.path) == self._id
        mount = mount_at(self.path)
        return mount is not None and mount.device == self.device

    def clear(self) -> bool:
        """Detach the mount if it is still there although its connection has ended; return whether it was.

        The kernel leaves it so when the connection is aborted, by hand or by `umount --force` of a mount in use.
        """
        if self._id is None or not self.is_ours():
            return False
        with contextlib.suppress(MountError):  # it is listed as dead then
            unmount(self.path, lazy=True)
        return True

    def unmount_from_outside(self) -> None:
        """Unmount in the namespace that was left, by way of a process that is still in it."""
        if self._left is None:
            return
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and _namespace_of(process.name) == self._left:
                enter = ["nsenter", "--mount", "--target", process.name]
                # To make the path canonical umount(8) would ask this process, which does not serve any more.
                umount = ["umount", "--no-canonicalize", "--lazy", self.path]
                subprocess.run([*enter, *umount], check=False, capture_output=True)
                return


def _leave_private_namespace() -> int | None:
    """Join the mount namespace around this one; return that which was left, or None where there is none to be seen."""
    own = _namespace_of("self")
    outside = next((pid for pid in _ancestors() if _namespace_of(pid) not in {None, own}), None)
    if own is None or outside is None:
        return None
    fd = os.open(f"/proc/{outside}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.enter_mount_namespace(fd)
    except OSError:
        return None
    finally:
        os.close(fd)
    return own


def _ancestors() -> Iterator[str]:
    """Give the parent of this process, its parent, and so on, as far as they can be seen."""
    pid = str(os.getppid())
    while pid != "0":
        yield pid
        try:
            status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return
        pid = status.rpartition(")")[2].split()[1]


def _namespace_of(pid: str) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/mnt").st_ino
    except OSError:
        return None
