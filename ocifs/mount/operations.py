"""The fuse engine: serve a rootfs to FUSE requests (pyfuse3.Operations).

Metadata comes at once from the mapped tree image; file data is read through `Reading`. An image never changes, so the
kernel may cache every name, attribute and page for ever, and requests each once. Writes never arrive, since the mount
is read-only. Nothing here knows of layers, whiteouts or tar.
"""

import contextlib
import errno
from collections.abc import Sequence

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FileNameT, FlagT, FUSEError, InodeT, RequestContext

from ocifs.errors import InvalidImageError
from ocifs.image.rootfs import Rootfs
from ocifs.mount.errno_boundary import answered
from ocifs.mount.fuse_protocol import FOREVER
from ocifs.mount.hot_files import HotFiles
from ocifs.mount.reading import Reading, Views

_NAME_MAX = 255
_BLOCK = 4096


class RootfsOperations(pyfuse3.Operations):
    """Serves one rootfs. The root has FUSE's inode number 1; every other inode number is the file's nid."""

    supports_dot_lookup = True

    def __init__(self, rootfs: Rootfs, reading: Reading, owner: tuple[int, int] | None = None) -> None:
        """Serve `rootfs`; with `owner`, show every file as owned by that uid and gid."""
        super().__init__()
        self.owner = owner
        self.tree = rootfs.tree
        self.enable_acl = rootfs.tree.has_acls
        self.reading = reading
        self._hot = HotFiles(rootfs, pyfuse3.notify_store)
        self.begun = trio.Event()
        """Set once the kernel has accepted FUSE_INIT."""

    def init(self) -> None:
        """Set `begun`."""
        self.begun.set()

    @answered
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        """Look up a name; the kernel caches a missing one as well."""
        if len(name) > _NAME_MAX:
            raise FUSEError(errno.ENAMETOOLONG)
        if name == b".":
            return self._of_handle(self._nid(parent_inode))
        nid = self.tree.lookup(self._nid(parent_inode), name)
        if nid is None:
            absent = EntryAttributes()
            absent.st_ino = InodeT(0)
            absent.entry_timeout = FOREVER
            return absent
        return self._attributes(nid)

    @answered
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        """Return attributes."""
        return self._attributes(self._nid(inode))

    @answered
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        """Return a symlink's target."""
        return FileNameT(self.tree.readlink(self._nid(inode)))

    @answered
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        """Return the nid as the handle: an open directory has no state."""
        return FileHandleT(self._nid(inode))

    @answered
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """List entries from `start_id` on, each with its attributes."""
        for name, nid, _, following in self.tree.readdir(fh, start_id):
            if not pyfuse3.readdir_reply(token, FileNameT(name), self._attributes(nid), following):
                break

    async def releasedir(self, fh: FileHandleT) -> None:
        """Do nothing: there is no state to release."""

    @answered
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        """Return the nid as the handle; the kernel keeps its cached pages, and gets those of the hot pack."""
        self._hot.store(inode, self._nid(inode))
        return FileInfo(fh=FileHandleT(self._nid(inode)), keep_cache=True)

    @answered
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """Return data, with zeros for holes."""
        extents = list(self.tree.extents(fh, off, size))
        parts = [
            [memoryview(bytes(length))] if address is None else self.reading.at_hand(length, address)
            for address, length in extents
        ]
        missing = [
            (length, address or 0) for (address, length), part in zip(extents, parts, strict=True) if part is None
        ]
        fetched = iter(await self._fetched(missing) if missing else [])
        return b"".join(view for part in parts for view in (next(fetched) if part is None else part))

    async def release(self, fh: FileHandleT) -> None:
        """Do nothing: there is no state to release."""

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """Do nothing: there is no state per inode."""

    @answered
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        """Describe a full file system with a fixed number of files."""
        stats = pyfuse3.StatvfsData()
        stats.f_bsize = stats.f_frsize = _BLOCK
        stats.f_blocks = self.reading.served.size // _BLOCK
        stats.f_files = self.tree.inode_count
        stats.f_namemax = _NAME_MAX
        return stats

    @answered
    async def getxattr(self, inode: InodeT, name: FileNameT, ctx: RequestContext) -> bytes:
        """Return a value; for an image without xattrs, ENOSYS stops further requests of the kernel."""
        if not self.tree.has_xattrs:
            raise FUSEError(errno.ENOSYS)
        value = self.tree.xattrs(self._nid(inode)).get(name)
        if value is None:
            raise FUSEError(pyfuse3.ENOATTR)
        return value

    @answered
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[FileNameT]:
        """Return names; for an image without xattrs, ENOSYS stops further requests of the kernel."""
        if not self.tree.has_xattrs:
            raise FUSEError(errno.ENOSYS)
        names = self.tree.xattrs(self._nid(inode))
        # The kernel lets only root read trusted.*, but leaves hiding the names to the file system (xattr(7)).
        return [FileNameT(name) for name in names if ctx.uid == 0 or not name.startswith(b"trusted.")]

    async def _fetched(self, ranges: list[tuple[int, int]]) -> list[Views]:
        """Wait until worker threads have read the ranges, or raise their error; other requests are served meanwhile."""
        results: list[list[Views] | Exception] = []
        done = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def answer(result: list[Views] | Exception) -> None:
            results.append(result)
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(done.set)

        self.reading.fetch(ranges, answer)
        await done.wait()
        if isinstance(results[0], Exception):
            raise results[0]
        return results[0]

    def _of_handle(self, nid: int) -> EntryAttributes:
        """Return the attributes for a file handle whose inode the kernel has dropped, whatever the type of file.

        The kernel looks up "." of the number in the handle (FUSE_EXPORT_SUPPORT), which may be any number.
        """
        try:
            return self._attributes(nid)
        except InvalidImageError:
            raise FUSEError(errno.ESTALE) from None

    def _nid(self, inode: InodeT) -> int:
        return self.tree.root if inode == pyfuse3.ROOT_INODE else inode

    def _attributes(self, nid: int) -> EntryAttributes:
        inode = self.tree.inode(nid)
        attributes = EntryAttributes()
        attributes.st_ino = InodeT(pyfuse3.ROOT_INODE if nid == self.tree.root else nid)
        attributes.entry_timeout = attributes.attr_timeout = FOREVER
        attributes.st_mode = inode.mode
        attributes.st_nlink = inode.nlink
        attributes.st_uid, attributes.st_gid = self.owner or (inode.uid, inode.gid)
        attributes.st_rdev = inode.rdev
        attributes.st_size = inode.size
        attributes.st_blocks = inode.blocks
        attributes.st_atime_ns = attributes.st_mtime_ns = attributes.st_ctime_ns = inode.mtime_ns
        return attributes
