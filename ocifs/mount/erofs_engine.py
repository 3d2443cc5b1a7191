"""The erofs engine: the kernel mounts the served file as EROFS, and asks this process only for that file's bytes.

Names, attributes and permissions, the page cache and mmap are then the kernel's own. The served file is the one file
of a FUSE file system that is attached nowhere, so nobody sees or reaches it; EROFS holds it open, and when the last
EROFS mount goes, so does the connection that this process serves, whoever unmounted.
"""

import contextlib
import errno
import os
from collections.abc import Callable
from contextlib import ExitStack

from ocifs.errors import MountError, raise_if_too_many_files
from ocifs.image.rootfs import Rootfs
from ocifs.mount import syscalls
from ocifs.mount.bdi import raise_readahead
from ocifs.mount.block_file import BlockFile
from ocifs.mount.job import Job
from ocifs.mount.mount_identity import MountIdentity
from ocifs.mount.mountinfo import EROFS_SOURCE
from ocifs.mount.rate_limited_log import say_aborted
from ocifs.mount.reading import Reading
from ocifs.mount.record import EngineName
from ocifs.pool import Pool

_REASONS = {
    errno.EPERM: "only root of the host may, with CAP_SYS_ADMIN",
    errno.ENODEV: "this kernel has no EROFS",
    errno.ENOTBLK: "this kernel mounts EROFS from block devices only (from a file since Linux 6.12)",
    errno.ENOSYS: "this kernel, or a seccomp filter, has no fsopen(2)",
}


class ErofsEngine:
    """Serves a rootfs by `BlockFile`; see `ocifs.mount.engine.Engine`."""

    name: EngineName = "erofs"

    def __init__(self, rootfs: Rootfs, job: Job) -> None:
        self._rootfs = rootfs
        self._job = job
        self._source = EROFS_SOURCE + job.digest

    def serve(self, stop: int, attached: Callable[[str | None], None]) -> None:
        """Make EROFS of the file, attach it, and serve the file. Raises MountError."""
        with ExitStack() as stack:
            try:
                block_file = self._block_file(stack)
                erofs = self._made_while_served(block_file)
                try:
                    syscalls.attach(erofs, self._job.mountpoint)
                finally:
                    os.close(erofs)
                try:
                    place = MountIdentity(self._job.mountpoint)
                except OSError:  # of the mount table: then nothing would unmount it later
                    syscalls.umount(self._job.mountpoint, lazy=True)
                    raise
            except OSError as error:
                raise _refused(error) from None
            stack.callback(_unmount, place)
            block_file.start()
            attached(place.device)
            if block_file.serve(stop) and place.clear():
                say_aborted(place.path)

    def _block_file(self, stack: ExitStack) -> BlockFile:
        """Make the FUSE file system. Raises OSError, before anything is made where the kernel has no EROFS."""
        syscalls.check_filesystem("erofs")
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        block_file = BlockFile(device, self._source, Reading(self._rootfs.served, self._job.read_timeout))
        stack.callback(block_file.close)
        options = {
            "source": "ocifs",
            "fd": str(device),
            "rootmode": "40000",
            "user_id": str(os.geteuid()),
            "group_id": str(os.getegid()),
            "default_permissions": None,
        }
        self._fuse = syscalls.new_mount("fuse", options, syscalls.MOUNT_ATTR_RDONLY)
        return block_file

    def _made_while_served(self, block_file: BlockFile) -> int:
        """Return the EROFS mount, attached nowhere. Raises OSError."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        # Not one of the block file's threads, which would stay: `MountIdentity` needs this process to have no other.
        with Pool(1) as thread:
            made = thread.submit(self._make)
            made.add_done_callback(lambda _: os.close(writing))
            try:
                block_file.serve(reading)
            except BaseException:
                block_file.close()  # else the thread would wait for an answer for ever
                raise
        os.close(reading)
        os.close(self._fuse)
        return made.result()

    def _make(self) -> int:
        """Return the EROFS mount. Each step here waits until this process answers the kernel."""
        syscalls.unshare_directory()
        os.fchdir(self._fuse)  # so that the mount table shows the file's bare name as the source
        device = os.stat(".").st_dev
        raise_readahead(f"{os.major(device)}:{os.minor(device)}")
        attributes = syscalls.MOUNT_ATTR_RDONLY
        attributes |= 0 if self._job.suid else syscalls.MOUNT_ATTR_NOSUID
        attributes |= 0 if self._job.dev else syscalls.MOUNT_ATTR_NODEV
        erofs = syscalls.new_mount("erofs", {"source": self._source}, attributes)
        if self._rootfs.tree.has_xattrs:
            _check_xattrs(erofs)
        return erofs


def _unmount(place: MountIdentity) -> None:
    place.unmount_from_outside()
    if place.is_ours():
        with contextlib.suppress(OSError):  # somebody else has just done it
            syscalls.umount(place.path, lazy=True)


def _refused(error: OSError) -> MountError:
    raise_if_too_many_files(error)
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
