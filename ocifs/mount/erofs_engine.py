"""The erofs engine: the kernel mounts the served file as EROFS, and requests only that file's bytes from this process.

The kernel itself handles names, attributes, permissions, the page cache and mmap. The served file is the only file of a
FUSE file system that is attached to no path, so no process can see or reach it. EROFS holds it open; when the last
EROFS mount goes, the connection that this process serves ends.
"""

import contextlib
import errno
import os
from collections.abc import Callable
from contextlib import ExitStack

from ocifs.descriptor import opened
from ocifs.errors import MountError, raise_if_short
from ocifs.image.rootfs import Rootfs
from ocifs.mount import syscalls
from ocifs.mount.bdi import raise_readahead
from ocifs.mount.block_file import BlockFile
from ocifs.mount.job import Job
from ocifs.mount.mount_identity import MountIdentity
from ocifs.mount.mountinfo import EROFS_SOURCE
from ocifs.mount.rate_limited_log import log_aborted
from ocifs.mount.reading import Reading
from ocifs.mount.record import EngineName
from ocifs.pool import Pool

_REASONS = {
    errno.EPERM: "only root on the host can, with CAP_SYS_ADMIN",
    errno.ENODEV: "this kernel has no EROFS",
    errno.ENOTBLK: "this kernel mounts EROFS only from block devices (files need Linux 6.12)",
    errno.ENOSYS: "this kernel, or a seccomp filter, has no fsopen(2)",
}


class ErofsEngine:
    """Serves a rootfs by `BlockFile`; see `ocifs.mount.engine.Engine`."""

    name: EngineName = "erofs"

    def __init__(self, rootfs: Rootfs, job: Job) -> None:
        self._rootfs = rootfs
        self._job = job
        self._source = EROFS_SOURCE + job.digest
        self._reading = Reading(rootfs.served, job.options.read_timeout)
        self._closing = ExitStack()

    def mount(self) -> str | None:
        """Make an EROFS file system of the file, and attach it. Raises MountError, ShortageError."""
        with ExitStack() as stack:
            try:
                self._block_file = self._new_block_file(stack)
                erofs = self._make_while_serving(self._block_file)
                try:
                    syscalls.attach(erofs, self._job.mountpoint)
                finally:
                    os.close(erofs)
                try:
                    self._identity = MountIdentity(self._job.mountpoint)
                except OSError:  # the mount table cannot be read, and nothing else would unmount
                    syscalls.umount(self._job.mountpoint, lazy=True)
                    raise
            except OSError as error:
                raise _refused(error) from None
            stack.callback(_unmount, self._identity)
            self._reading.start()
            self._closing = stack.pop_all()
        return self._identity.device

    def serve(self, stop: int, ready: Callable[[], None]) -> None:
        """Serve the file."""
        ready()
        if self._block_file.serve(stop) and self._identity.clear():
            log_aborted(self._identity.path)

    def close(self) -> None:
        """Unmount if the mount still exists, and end the connection."""
        self._closing.close()

    def _new_block_file(self, stack: ExitStack) -> BlockFile:
        """Make the FUSE file system, unless the kernel has no EROFS. Raises OSError."""
        syscalls.check_filesystem("erofs")
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        block_file = BlockFile(device, self._source, self._reading)
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

    def _make_while_serving(self, block_file: BlockFile) -> int:
        """Return the EROFS mount, not yet attached. Raises OSError."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        # In a pool that ends here: this process must have a single thread again (`Engine`).
        with Pool(1) as thread:
            made = thread.submit(self._make)
            made.add_done_callback(lambda _: os.close(writing))
            try:
                block_file.serve(reading)
            except BaseException:
                block_file.close()  # otherwise the thread would wait for an answer for ever
                raise
        os.close(reading)
        os.close(self._fuse)
        return made.result()

    def _make(self) -> int:
        """Return the EROFS mount. Each step waits for an answer of this process to the kernel."""
        syscalls.unshare_directory()
        os.fchdir(self._fuse)  # so that the mount table shows the file's bare name as the source
        device = os.stat(".").st_dev
        raise_readahead(f"{os.major(device)}:{os.minor(device)}")
        attributes = syscalls.MOUNT_ATTR_RDONLY
        attributes |= 0 if self._job.options.suid else syscalls.MOUNT_ATTR_NOSUID
        attributes |= 0 if self._job.options.dev else syscalls.MOUNT_ATTR_NODEV
        erofs = syscalls.new_mount("erofs", {"source": self._source}, attributes)
        if self._rootfs.tree.has_xattrs:
            _check_xattrs(erofs)
        return erofs


def _unmount(identity: MountIdentity) -> None:
    identity.unmount_from_outside()
    if identity.is_ours():
        with contextlib.suppress(OSError):  # it has just been unmounted
            syscalls.umount(identity.path, lazy=True)


def _refused(error: OSError) -> MountError:
    raise_if_short(error)
    reason = _REASONS.get(error.errno or 0, error.strerror)
    return MountError(f"cannot mount EROFS: {reason}")


def _check_xattrs(erofs: int) -> None:
    """Check that the kernel was built with all kinds of extended attributes for EROFS. Raises OSError."""
    with opened(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=erofs) as root:
        for name in ("user.ocifs", "security.capability", "system.posix_acl_access"):
            try:
                os.getxattr(root, name)
            except OSError as error:
                if error.errno != errno.ENODATA:
                    raise OSError(
                        error.errno, f"this kernel's EROFS has no {name.partition('.')[0]}.* xattrs"
                    ) from None
