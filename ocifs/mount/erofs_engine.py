"""The erofs engine: the kernel mounts the served file as EROFS, and asks this process only for that file's bytes.

Names, attributes and permissions, the page cache and mmap are then the kernel's own. The served file is the one file
of a FUSE file system that is attached nowhere, so nobody sees or reaches it; EROFS holds it open, and when the last
EROFS mount goes, so does the connection that this process serves, whoever unmounted.
"""

import contextlib
import errno
import os
import threading
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self

import pyfuse3
import trio

from ocifs.errors import MountError
from ocifs.image.rootfs import Rootfs
from ocifs.mount import syscalls
from ocifs.mount.block_file import BlockFileOperations
from ocifs.mount.job import Job
from ocifs.mount.mountinfo import EROFS_SOURCE
from ocifs.mount.place import Place
from ocifs.mount.reading import Reading
from ocifs.mount.record import EngineName

_READ_AHEAD = 1024
"""KiB that the kernel reads of the served file ahead of a sequential reader."""

_REASONS = {
    errno.EPERM: "only root of the host may, with CAP_SYS_ADMIN",
    errno.ENODEV: "this kernel has no EROFS",
    errno.ENOTBLK: "this kernel mounts EROFS from block devices only (from a file since Linux 6.12)",
    errno.ENOSYS: "this kernel, or a seccomp filter, has no fsopen(2)",
}


class ErofsEngine:
    """Serves a rootfs by `BlockFileOperations`; see `ocifs.mount.engine.Engine`."""

    name: EngineName = "erofs"

    def __init__(self, rootfs: Rootfs, job: Job) -> None:
        self._rootfs = rootfs
        self._job = job
        self._source = EROFS_SOURCE + job.digest
        self._place: Place | None = None

    def __enter__(self) -> Self:
        """Make the FUSE file system. Raises MountError, before anything is asked for where the kernel has no EROFS."""
        try:
            syscalls.check_filesystem("erofs")
            device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise _refused(error) from None
        options = {
            "source": "ocifs",
            "fd": str(device),
            "rootmode": "40000",
            "user_id": str(os.geteuid()),
            "group_id": str(os.getegid()),
            "default_permissions": None,
        }
        try:
            self._fuse = syscalls.new_mount("fuse", options, syscalls.MOUNT_ATTR_RDONLY)
        except OSError as error:
            os.close(device)
            raise _refused(error) from None
        # libfuse takes the path for "open and mounted already", and closes the descriptor at the end.
        operations = BlockFileOperations(self._source, Reading(self._rootfs.served))
        pyfuse3.init(operations, f"/dev/fd/{device}", set())
        return self

    async def attach(self) -> None:
        """Make EROFS of the file, and attach it. Raises MountError."""
        made: Future[int] = Future()
        done = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def make() -> None:
            try:
                made.set_result(self._make())
            except OSError as error:
                made.set_exception(error)
            token.run_sync_soon(done.set)

        # Not a thread of trio's, which would stay: `Place` needs this process to have no other.
        thread = threading.Thread(target=make)
        thread.start()
        await done.wait()
        thread.join()
        os.close(self._fuse)
        try:
            erofs = made.result()
            try:
                syscalls.attach(erofs, self._job.mountpoint)
            finally:
                os.close(erofs)
        except OSError as error:
            raise _refused(error) from None
        self._place = Place(self._job.mountpoint)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._place is not None:
            self._place.unmount_from_outside()
            if self._place.is_ours():
                with contextlib.suppress(OSError):  # somebody else has just done it
                    syscalls.umount(self._place.path, lazy=True)
        pyfuse3.close(unmount=False)

    def _make(self) -> int:
        """Return the EROFS mount, attached nowhere. Each step here waits until this process answers the kernel."""
        syscalls.unshare_directory()
        os.fchdir(self._fuse)  # so that the mount table shows the file's bare name as the source
        _read_ahead(os.stat(".").st_dev)
        attributes = syscalls.MOUNT_ATTR_RDONLY
        attributes |= 0 if self._job.suid else syscalls.MOUNT_ATTR_NOSUID
        attributes |= 0 if self._job.dev else syscalls.MOUNT_ATTR_NODEV
        erofs = syscalls.new_mount("erofs", {"source": self._source}, attributes)
        if self._rootfs.tree.has_xattrs:
            _check_xattrs(erofs)
        return erofs


def _refused(error: OSError) -> MountError:
    reason = _REASONS.get(error.errno or 0, error.strerror)
    return MountError(f"cannot mount EROFS: {reason}")


def _check_xattrs(erofs: int) -> None:
    """Make sure that the kernel was built to show all extended attributes of EROFS. Raises OSError."""
    root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=erofs)
    try:
        for name in ("user.ocifs", "security.capability", "system.posix_acl_access"):
            try:
                os.getxattr(root, name)
            except OSError as error:
                if error.errno != errno.ENODATA:
                    raise OSError(
                        error.errno, f"this kernel's EROFS has no {name.partition('.')[0]}.* xattrs"
                    ) from None
    finally:
        os.close(root)


def _read_ahead(device: int) -> None:
    """Let the kernel read more of a file system ahead than 128 KiB, where it lets itself be told."""
    with contextlib.suppress(OSError):
        bdi = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
        bdi.write_text(str(_READ_AHEAD))
