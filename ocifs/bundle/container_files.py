"""The files of a container as the lookup of a path meets them: the image, and the mounts on top of it.

The lookup follows path_resolution(7) from the container's root, across mounts: a symlink, also one in a directory of
the host, never leaves the container. What a mount shows that this module does not know, such as /proc, only the kernel
decides (`UndecidedError`). Nothing is changed, and of the host's files only the attributes and first bytes are read.
"""

import errno
import os
import stat
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import msgspec

from ocifs.image.lookup import MAX_SYMLINKS
from ocifs.image.rootfs import Rootfs

_ACL = "system.posix_acl_access"
_MAX_LOOKUPS = 50_000
"""Names that all lookups in one container may take: an image could have a long PATH of symlinks."""


class UndecidedError(Exception):
    """Only the kernel knows the file."""


class MountedSource(msgspec.Struct, frozen=True, kw_only=True):
    """What a mount destination shows: one of these; if nothing is set, only the kernel knows."""

    host: str | None = None
    """A file or directory of the host."""
    image: str | None = None
    """Another image, by its directory in the bundle."""
    empty: bool = False
    """A new tmpfs."""
    executable: bool = True
    """Whether the mount lacks `noexec`."""


class FileStatus(NamedTuple):
    """What decides who may execute a file, or search a directory."""

    mode: int
    uid: int
    gid: int
    has_acl: bool
    of_host: bool = False


class File(Protocol):
    """A file of any type. Its methods raise UndecidedError if they cannot know."""

    @property
    def executable(self) -> bool:
        """Whether its mount lacks `noexec`."""
        ...

    def attributes(self) -> FileStatus:
        """Return its mode and owner."""
        ...

    def child(self, name: bytes) -> "File | None":
        """Return a file of this directory."""
        ...

    def readlink(self) -> bytes:
        """Return the target of this symlink."""
        ...

    def head(self, size: int) -> bytes:
        """Return the first bytes of this regular file. Raises InvalidImageError."""
        ...


class ContainerFiles:
    """The files of a container."""

    def __init__(self, rootfs: Rootfs, mounts: Mapping[str, MountedSource], images: Mapping[str, Rootfs]) -> None:
        """`mounts` are by destination, and `images` by their directory in the bundle."""
        self._root = _ImageFile(rootfs, rootfs.root, executable=True)
        self._mounts = {_names(path): mount for path, mount in mounts.items()}
        self._made = {names[:end] for names in self._mounts for end in range(1, len(names))}
        """Directories on the way to mounts, which the runtime makes if they do not exist."""
        self._images = images
        self._left = _MAX_LOOKUPS

    def lookup(self, path: bytes, may_enter: Callable[[File], bool]) -> File:
        """Return the file at `path`, after symlinks. Call `may_enter` for each directory on the way.

        Raises:
            OSError: With the errno of the kernel: ENOENT, ENOTDIR, EACCES, ELOOP; E2BIG after too many lookups.
            UndecidedError: A directory on the way is on a mount that only the kernel knows.
        """
        chain: list[File] = [self._root]
        names: tuple[bytes, ...] = ()
        pending = [*reversed(_names(path))]
        links = 0
        while pending:
            name = pending.pop()
            self._count()
            if not stat.S_ISDIR(chain[-1].attributes().mode):
                raise _error(errno.ENOTDIR)
            if not may_enter(chain[-1]):
                raise _error(errno.EACCES)
            if name == b"..":
                names = names[:-1]
                del chain[len(names) + 1 :]
                continue
            below = self._child(chain[-1], (*names, name))
            if stat.S_ISLNK(below.attributes().mode):
                links += 1
                if links > MAX_SYMLINKS:
                    raise _error(errno.ELOOP)
                target = below.readlink()
                if target.startswith(b"/"):
                    names = ()
                    del chain[1:]
                pending += reversed(_names(target))
            else:
                chain.append(below)
                names = (*names, name)
        return chain[-1]

    def _child(self, directory: File, names: tuple[bytes, ...]) -> File:
        """Return the file `names`, which is in `directory` or a mount."""
        mount = self._mounts.get(names)
        if mount is None:
            below = directory.child(names[-1]) or (_EMPTY if names in self._made else None)
            if below is None:
                raise _error(errno.ENOENT)
            return below
        if mount.host is not None:
            return _HostFile(os.path.realpath(os.fsencode(mount.host)), mount.executable)
        if (rootfs := self._images.get(mount.image or "")) is not None:
            return _ImageFile(rootfs, rootfs.root, mount.executable)
        if mount.empty:
            return _EMPTY
        raise UndecidedError

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise _error(errno.E2BIG)


class _ImageFile(NamedTuple):
    """A file of an image."""

    rootfs: Rootfs
    nid: int
    executable: bool

    def attributes(self) -> FileStatus:
        inode = self.rootfs.tree.inode(self.nid)
        has_acl = inode.has_xattrs and _ACL.encode() in self.rootfs.tree.xattrs(self.nid)
        return FileStatus(inode.mode, inode.uid, inode.gid, has_acl)

    def child(self, name: bytes) -> "_ImageFile | None":
        nid = self.rootfs.tree.lookup(self.nid, name)
        return None if nid is None else self._replace(nid=nid)

    def readlink(self) -> bytes:
        return self.rootfs.readlink(self.nid)

    def head(self, size: int) -> bytes:
        return self.rootfs.read(self.nid, size, 0)


class _HostFile(NamedTuple):
    """A file of the host; only the last component of its path may be a symlink."""

    path: bytes
    executable: bool

    def attributes(self) -> FileStatus:
        try:
            found = os.lstat(self.path)
            has_acl = not stat.S_ISLNK(found.st_mode) and _ACL in os.listxattr(self.path)
        except OSError:
            raise UndecidedError from None
        return FileStatus(found.st_mode, found.st_uid, found.st_gid, has_acl, of_host=True)

    def child(self, name: bytes) -> "_HostFile | None":
        path = os.path.join(self.path, name)
        try:
            os.lstat(path)
        except FileNotFoundError:
            return None
        except OSError:
            raise UndecidedError from None
        return self._replace(path=path)

    def readlink(self) -> bytes:
        try:
            return os.readlink(self.path)
        except OSError:
            raise UndecidedError from None

    def head(self, size: int) -> bytes:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                return file.read(size)
        except OSError:  # an executable file need not be readable
            raise UndecidedError from None


class _EmptyDirectory(NamedTuple):
    """A directory that the runtime makes."""

    executable: bool = True

    def attributes(self) -> FileStatus:
        return FileStatus(stat.S_IFDIR | 0o755, 0, 0, has_acl=False)

    def child(self, name: bytes) -> None:
        return None

    def readlink(self) -> bytes:
        raise UndecidedError

    def head(self, size: int) -> bytes:
        raise UndecidedError


_EMPTY = _EmptyDirectory()


def _names(path: str | bytes) -> tuple[bytes, ...]:
    return tuple(name for name in os.fsencode(path).split(b"/") if name not in {b"", b"."})


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
