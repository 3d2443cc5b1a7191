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
from typing import NamedTuple

from msgspec.structs import replace

from ocifs.descriptor import opened
from ocifs.errors import MountError, raise_if_short
from ocifs.image.rootfs import Rootfs
from ocifs.mount import syscalls
from ocifs.mount.background import is_unfinished
from ocifs.mount.bdi import raise_readahead
from ocifs.mount.block_file import BlockFile, Idleness, take_over
from ocifs.mount.counters import Counters
from ocifs.mount.job import Job
from ocifs.mount.mount_identity import Known, MountIdentity
from ocifs.mount.mountinfo import EROFS_SOURCE, detach, mount_at
from ocifs.mount.rate_limited_log import log_aborted
from ocifs.mount.reading import Reading
from ocifs.mount.record import EngineName
from ocifs.mount.user_namespace import user_namespace
from ocifs.pool import Pool

_REASONS = {
    errno.EPERM: "only root on the host can, with CAP_SYS_ADMIN",
    errno.ENODEV: "this kernel has no EROFS",
    errno.ENOTBLK: "this kernel mounts EROFS only from block devices (files need Linux 6.12)",
    errno.ENOSYS: "this kernel, or a seccomp filter, has no fsopen(2)",
}


class Connection(NamedTuple):
    """A FUSE connection that outlives this process, because another one holds `device`, too."""

    device: int
    """/dev/fuse."""
    counters: Counters
    idle_seconds: float = 0.0
    """Seconds without a request until the counters say that the mount is idle; 0: never."""


class ErofsEngine:
    """Serves a rootfs by `BlockFile`; see `ocifs.mount.engine.Engine`."""

    name: EngineName = "erofs"

    def __init__(self, rootfs: Rootfs, job: Job, connection: Connection | None = None) -> None:
        """Without `connection`, the FUSE connection ends with this process."""
        self._rootfs = rootfs
        self._job = job
        self._connection = connection
        self._source = EROFS_SOURCE + job.digest
        self._reading = Reading(rootfs.served, job.options.read_timeout)
        self._fuse_device = ""
        self._opened: int | None = None
        """The served file."""
        self._closing = ExitStack()
        self._namespace: int | None = None

    def mount(self) -> str | None:
        """Make an EROFS file system of the file, and attach it. Raises MountError, ShortageError."""
        with ExitStack() as stack, ExitStack() as namespace:
            stack.callback(self._close_served_file)
            try:
                if self._job.ids is not None:
                    self._namespace = user_namespace(self._job.ids)
                    namespace.callback(os.close, self._namespace)
                self._block_file = self._new_block_file(stack)
                erofs = self._make_while_serving(self._block_file)
                try:
                    if self._connection is not None:
                        self._connection.counters.attaching = os.fstat(erofs).st_dev
                    self._attach(erofs)
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

    def resume(self, known: Known) -> bool:
        """Serve the mount of a process that died or gave it up; return False if it was unmounted meanwhile.

        The readahead rises if nothing is recorded any more. If this fails, the mount stays for another process.
        Raises ShortageError.
        """
        with ExitStack() as stack:
            self._fuse_device = known.fuse
            connection = self._connection
            assert connection is not None  # noqa: S101
            self._block_file = BlockFile(connection.device, self._source, self._reading, connection.counters)
            stack.callback(self._block_file.close)
            self._identity = MountIdentity(known.path, known)
            self._reading.start()
            if not take_over(connection.device):
                return False
            if self._rootfs.served.recording is None:
                self.raise_readahead()
            stack.callback(_unmount, self._identity)
            self._closing = stack.pop_all()
        return True

    @property
    def known(self) -> Known:
        """What another process needs to know to `resume`."""
        return replace(self._identity.known, fuse=self._fuse_device)

    def open_served_file(self, released: Callable[[], None]) -> int | None:
        """Return the descriptor, unless this process has resumed the mount."""
        opened, self._opened = self._opened, None
        if opened is not None:
            self._block_file.released = released
        return opened

    def raise_readahead(self) -> None:
        """Raise the readahead of the served file."""
        raise_readahead(self._fuse_device)

    def serve(self, stop: int, ready: Callable[[], None]) -> None:
        """Serve the file."""
        ready()
        idleness = None
        if self._connection is not None and self._connection.idle_seconds:
            idleness = Idleness(self._connection.idle_seconds, self.may_be_idle)
        if self._block_file.serve(stop, idleness) and self._identity.clear():
            log_aborted(self._identity.path)

    def may_be_idle(self) -> bool:
        """Whether another process could open the rootfs later and do all the same: nothing is being fetched or saved.

        Note in the counters whether it is to record the first reads.
        """
        served = self._rootfs.served
        recording = served.recording
        if (
            is_unfinished(self._rootfs)
            or served.is_fetching_pack
            or served.is_saving
            or (recording is not None and recording.reads)
        ):
            return False
        assert self._connection is not None  # noqa: S101 - the caller has checked
        self._connection.counters.is_unread = recording is not None
        return True

    def close(self) -> None:
        """Unmount if the mount still exists, and end the connection."""
        self._close_served_file()
        self._closing.close()

    def _close_served_file(self) -> None:
        if self._opened is not None:
            os.close(self._opened)
            self._opened = None

    def _attach(self, erofs: int) -> None:
        """Attach the mount to the mountpoint, or beneath the mount there that it replaces. Raises OSError."""
        mountpoint = self._job.mountpoint
        if self._job.swap and mount_at(mountpoint) is not None:
            try:
                syscalls.attach_beneath(erofs, mountpoint)
            except OSError:  # an old kernel, or propagation to other namespaces: for a moment, nothing is there
                detach(mountpoint)
            else:
                detach(mountpoint)
                return
        syscalls.attach(erofs, mountpoint)

    def _new_block_file(self, stack: ExitStack) -> BlockFile:
        """Make the FUSE file system, unless the kernel has no EROFS. Raises OSError."""
        syscalls.check_filesystem("erofs")
        connection = self._connection
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC) if connection is None else connection.device
        block_file = BlockFile(device, self._source, self._reading, connection and connection.counters)
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
        self._fuse_device = f"{os.major(device)}:{os.minor(device)}"
        if self._rootfs.served.recording is None:
            self.raise_readahead()
        attributes = syscalls.MOUNT_ATTR_RDONLY
        attributes |= 0 if self._job.options.suid else syscalls.MOUNT_ATTR_NOSUID
        attributes |= 0 if self._job.options.dev else syscalls.MOUNT_ATTR_NODEV
        attributes |= 0 if self._job.options.exec else syscalls.MOUNT_ATTR_NOEXEC
        self._opened = os.open(self._source, os.O_RDONLY | os.O_CLOEXEC)
        erofs = syscalls.new_mount("erofs", {"source": self._source}, attributes)
        if self._rootfs.tree.has_xattrs:
            _check_xattrs(erofs)
        if self._namespace is not None:
            syscalls.map_ids(erofs, self._namespace)
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
