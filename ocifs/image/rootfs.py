"""The merged tree with its bytes: a tree image, and a seekable reader for each layer.

Engines serve it, and commands read it. Files are named by nid, as in the tree image, or by path; lookups, including
symlinks, never leave this tree. It keeps no state per file. It knows no manifest, config or store.
"""

import errno
import io
import mmap
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Protocol, Self

from ocifs.erofs.reader import Inode, TreeImage
from ocifs.errors import NotFoundError, printable
from ocifs.image.lookup import lookup, resolve
from ocifs.image.served_file import ServedFile
from ocifs.layer.layer import Layer
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.reader import FileSection
from ocifs.tree.changes import OPAQUE_XATTR, WHITEOUT_XATTR

BUFFER_SIZE = 128 << 10
"""Bytes that an open file reads at once."""


class MappableFile(FileSection, Protocol):
    """A tree image in an open file."""

    def map(self) -> mmap.mmap:
        """Map all of it for reading."""
        ...


class Rootfs:
    """A merged tree; a context manager. `close` unmaps the tree image, but leaves the files of others open."""

    def __init__(self, tree_image: MappableFile, layers: Sequence[Layer], limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        """Limits for writing it out."""
        self.served = ServedFile(tree_image, layers)
        """Resolves the addresses of extents in the tree image."""
        self.tree_image = tree_image
        """The open file that `tree` maps."""
        with ExitStack() as stack:
            mapped = tree_image.map()
            stack.callback(mapped.close)
            self.tree = TreeImage(mapped, [layer.size for layer in layers])
            self._closing = stack.pop_all()
        self.root: int = self.tree.root
        self.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap the tree image."""
        self.closed = True
        self._closing.close()

    def read(self, nid: int, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset` of a regular file.

        Raises:
            InvalidImageError: A span fails its verification.
            OSError: A blob cannot be read.
        """
        parts = [
            bytes(length) if address is None else self.served.pread(length, address)
            for address, length in self.tree.extents(nid, offset, size)
        ]
        return b"".join(parts)

    def readlink(self, nid: int) -> bytes:
        """Return the target of a symlink."""
        return self.tree.readlink(nid)

    def is_whiteout(self, inode: Inode) -> bool:
        """Whether the layer removed the file of that name, in a tree of a layer's changes."""
        return stat.S_ISCHR(inode.mode) and not inode.rdev and WHITEOUT_XATTR in self.tree.xattrs(inode.nid)

    def is_opaque(self, inode: Inode) -> bool:
        """Whether the layer hides the lower content of the directory, in a tree of a layer's changes."""
        return stat.S_ISDIR(inode.mode) and inode.has_xattrs and OPAQUE_XATTR in self.tree.xattrs(inode.nid)

    def lookup(self, path: str | bytes | os.PathLike[str], *, follow: bool = True) -> int:
        """Return the nid at `path`, relative to the root; `follow` a symlink at its end.

        Raises:
            PathError: The path does not exist, or has too many symlinks.
        """
        return lookup(self.tree, os.fsencode(path), follow=follow)

    def canonical(self, path: str | bytes | os.PathLike[str]) -> list[bytes]:
        """Return the names of `path` with all symlinks resolved except the last one.

        Names that do not exist are kept as written.
        """
        _, names, rest = resolve(self.tree, os.fsencode(path), follow=False)
        for name in rest:
            if name == b"..":
                del names[-1:]
            elif name != b".":
                names.append(name)
        return names

    def walk(self, path: str | bytes | os.PathLike[str] = "/") -> Iterator[tuple[bytes, Inode]]:
        """Yield (path below `path`, inode) of everything there, depth first and by name; `path` itself is b""."""
        for below, nid in self.tree.walk(self.lookup(path)):
            yield below, self.tree.inode(nid)

    def open(self, path: str | bytes | os.PathLike[str]) -> io.BufferedReader:
        """Open a regular file for reading, like `open(path, "rb")`.

        Raises:
            NotFoundError: The path does not exist, or is not a regular file.
        """
        inode = self.tree.inode(self.lookup(path))
        if not stat.S_ISREG(inode.mode):
            what = "is a directory" if stat.S_ISDIR(inode.mode) else "not a regular file"
            raise NotFoundError(f"{printable(os.fsencode(path))}: {what}")
        return io.BufferedReader(self.open_raw(inode), buffer_size=BUFFER_SIZE)

    def open_raw(self, inode: Inode) -> io.RawIOBase:
        """Return an unbuffered file object of a regular file; it can be read until this tree is closed."""
        return _OpenFile(self, inode)


class _OpenFile(io.RawIOBase):
    """A regular file of a rootfs as a file object."""

    def __init__(self, rootfs: Rootfs, inode: Inode) -> None:
        super().__init__()
        self._rootfs = rootfs
        self._inode = inode
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._inode.size}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readall(self) -> bytes:
        data = self._read(self._inode.size)
        self._position += len(data)
        return data

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _read(self, size: int) -> bytes:
        if self.closed or self._rootfs.closed:
            raise ValueError("read of a closed file" if self.closed else "read of a file of a closed image")
        return self._rootfs.read(self._inode.nid, size, self._position)
