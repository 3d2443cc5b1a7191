"""The erofs engine's half in user space: a file system of one file, the served file (pyfuse3.Operations).

The kernel's EROFS reads it as a disk is read: a page of metadata here, a run of file bytes there. It never changes, so
every page may be kept for good. Nothing here knows what the bytes mean.
"""

import errno
import stat

import pyfuse3
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FileNameT, FlagT, FUSEError, InodeT, RequestContext

from ocifs.mount.edge import answered
from ocifs.mount.operations import FOREVER
from ocifs.mount.reading import Reading

_FILE = InodeT(pyfuse3.ROOT_INODE + 1)


class BlockFileOperations(pyfuse3.Operations):
    """A directory with the one file `name`."""

    def __init__(self, name: str, reading: Reading) -> None:
        super().__init__()
        self._name = name.encode()
        self._reading = reading

    @answered
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        """Find the file, if that is its name."""
        if name != self._name:
            raise FUSEError(errno.ENOENT)
        return self._attributes(_FILE)

    @answered
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        """Return attributes of the directory or the file."""
        return self._attributes(inode)

    @answered
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        """Open the file; pages that the kernel has stay good."""
        return FileInfo(fh=FileHandleT(inode), keep_cache=True)

    @answered
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """Return bytes of the served file."""
        return await self._reading.read(size, off)

    async def release(self, fh: FileHandleT) -> None:
        """Nothing to let go of."""

    def _attributes(self, inode: InodeT) -> EntryAttributes:
        attributes = EntryAttributes()
        attributes.st_ino = inode
        attributes.entry_timeout = attributes.attr_timeout = FOREVER
        attributes.st_mode = stat.S_IFREG | 0o400 if inode == _FILE else stat.S_IFDIR | 0o500
        attributes.st_nlink = 1
        attributes.st_size = self._reading.served.size if inode == _FILE else 0
        return attributes
