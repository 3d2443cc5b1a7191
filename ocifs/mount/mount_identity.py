"""The identity of a daemon's mount, and the mount namespace that it is in.

A path does not identify a mount: another mount may cover it by now, or the path may lead to another directory. And a
daemon in a private mount namespace would keep that namespace alive, with its own mount in it. So the daemon leaves for
the namespace of an ancestor, and its mount goes with the last process of the private one (mount_namespaces(7)).
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ocifs.descriptor import opened
from ocifs.errors import MountError
from ocifs.mount import syscalls
from ocifs.mount.mountinfo import mount_at, mount_table, unmount
from ocifs.process import stat_of


class Known(msgspec.Struct, frozen=True):
    """An identity in a form that can be sent to another process."""

    path: str
    device: str | None
    """major:minor."""
    id: int | None
    """Unique ID of the mount; None if the kernel has none."""
    left: int | None
    """The private mount namespace that it is in; None: that of this process."""
    fuse: str = ""
    """major:minor of the file system with the served file, if it is not the mount itself."""


class MountIdentity:
    """The mount that this process, which must have a single thread (`Engine`), has just made at `path`.

    With `known`, a mount that another process made.
    """

    def __init__(self, path: str, known: Known | None = None) -> None:
        self.path = path
        if known is not None:
            self.device, self._id, self._left = known.device, known.id, known.left
            return
        mount = mount_at(path)
        self.device = mount.device if mount else None
        """major:minor."""
        self._id = syscalls.mount_id(path)
        self._left = leave_private_namespace()

    @property
    def known(self) -> Known:
        """What another process needs to know."""
        return Known(self.path, self.device, self._id, self._left)

    def is_ours(self) -> bool:
        """Whether `path`, as this process sees it, is still the mount that it made.

        The kernel reuses the device number of a mount that is gone, so the mount ID decides where the kernel has one.
        """
        if self._left is not None or not self._is_listed("self"):
            return False
        return self._id is None or syscalls.mount_id(self.path) == self._id

    def clear(self) -> bool:
        """Detach the mount if it still exists after its connection has ended; return whether it did.

        The kernel leaves such a mount when the connection is aborted, through sysfs or by `umount --force` of a busy
        mount.
        """
        if self._id is None or not self.is_ours():
            return False
        with contextlib.suppress(MountError):  # the mount is then listed as dead
            unmount(self.path, lazy=True)
        return True

    def unmount_from_outside(self) -> None:
        """Unmount in the namespace that this process has left, through a process that is still in it."""
        if self._left is None:
            return
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and _namespace_of(process.name) == self._left:
                if not self._is_listed(process.name):
                    return
                enter = ["nsenter", "--mount", "--target", process.name]
                # To canonicalise the path, umount(8) would send requests to this process, which no longer serves.
                umount = ["umount", "--no-canonicalize", "--lazy", self.path]
                subprocess.run([*enter, *umount], check=False, capture_output=True)
                return

    def _is_listed(self, pid: str) -> bool:
        """Whether the mount table of a process has a mount like this one on top of `path`.

        Nothing is looked up: on a map of autofs, that would mount the image again.
        """
        try:
            mounts = [mount for mount in mount_table(Path("/proc", str(pid))) if mount.mountpoint == self.path]
        except OSError:  # too many open files
            return True
        return bool(mounts) and self.device in {None, mounts[-1].device}


def leave_private_namespace() -> int | None:
    """Join the mount namespace of the nearest ancestor with another one; return the one left, or None."""
    own = _namespace_of("self")
    outside = next((pid for pid in _ancestors() if _namespace_of(pid) not in {None, own}), None)
    if own is None or outside is None:
        return None
    with opened(f"/proc/{outside}/ns/mnt", os.O_RDONLY) as fd:
        try:
            syscalls.enter_mount_namespace(fd)
        except OSError:
            return None
    return own


def _ancestors() -> Iterator[int]:
    """Yield the PIDs of the visible ancestors of this process, its parent first."""
    pid = os.getppid()
    while pid:
        yield pid
        try:
            pid = stat_of(pid).parent
        except OSError:
            return


def _namespace_of(pid: int | str) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/mnt").st_ino
    except OSError:
        return None
