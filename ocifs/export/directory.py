"""Write a rootfs as a directory.

The export creates directories (closed to other users) and files without data first. Then it writes files in the order
of their bytes in the layers, so that each span is decoded once. Then come further hard links. Last, directories get
their attributes, which the earlier steps would have changed. All names are reached by descriptors (`directories.py`).
"""

import os
import stat
from array import array
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from itertools import tee

from ocifs.descriptor import opened
from ocifs.erofs import format as erofs
from ocifs.erofs.reader import Inode
from ocifs.erofs.xattr import ACL_NAMES
from ocifs.errors import InvalidImageError
from ocifs.export.attributes import Attributes, PlainModes
from ocifs.export.data import Data, Progress, contents, data_of, directory_at, place_of
from ocifs.export.directories import OPEN_DIRECTORY, Cursor, DirectoryTable
from ocifs.export.losses import Loss, Losses
from ocifs.export.target import new_directory
from ocifs.image.readahead import take
from ocifs.image.rootfs import Rootfs

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BY_NAME = os.O_PATH | os.O_NOFOLLOW
_DEVICES = {stat.S_IFCHR, stat.S_IFBLK}


def export_directory(
    rootfs: Rootfs,
    path: str,
    target: str,
    *,
    rootless: bool = False,
    plain: bool = False,
    progress: Progress | None = None,
) -> Losses:
    """Write the directory at `path` of the image, and everything below it, to the new directory `target`.

    `target` may be an empty directory. It appears complete, or not at all. `rootless` records owners in the extended
    attribute `user.rootlesscontainers` instead of changing them, and replaces devices by empty files. `plain` sets only
    permissions, reduced by the umask.

    Returns:
        What could not be reproduced.

    Raises:
        NotFoundError: `path` is not a directory of the image.
        OcifsError: The target exists, or cannot be written.
        InvalidImageError: A span does not verify.
        LimitError: The files exceed a limit of the rootfs.
    """
    nid = directory_at(rootfs, path)
    with new_directory(target) as top:
        losses, _ = write_below(rootfs, nid, top, rootless=rootless, plain=plain, progress=progress)
    return losses


def write_below(
    rootfs: Rootfs,
    nid: int,
    top: int,
    *,
    rootless: bool = False,
    plain: bool = False,
    progress: Progress | None = None,
) -> tuple[Losses, Attributes | PlainModes]:
    """Write the directory `nid` to the new, open directory `top`, like `export_directory`.

    Returns:
        What could not be reproduced, and what sets attributes.
    """
    losses = Losses()
    owner = _make_plain(top)
    attributes = PlainModes() if plain else Attributes(owner, losses, rootless=rootless)
    _Export(rootfs, nid, top, losses, attributes, rootless=rootless).run(progress)
    return losses, attributes


class _Export:
    """One export in progress, to the open directory `top`."""

    def __init__(
        self, rootfs: Rootfs, nid: int, top: int, losses: Losses, attributes: Attributes | PlainModes, *, rootless: bool
    ) -> None:
        self.rootfs = rootfs
        self.tree = rootfs.tree
        self.losses = losses
        self.rootless = rootless
        self.attributes = attributes
        self.stored = 0
        """Bytes of all files, without holes."""
        self.directories = DirectoryTable(nid)
        self.files = _Files()
        self.first: dict[int, tuple[int, bytes]] = {}
        """First name of each hard-linked file: nid to directory and name."""
        self.more: list[tuple[int, int, bytes]] = []
        """Further names of hard-linked files: nid, directory, name."""
        self.here = Cursor(self.directories, top)
        self.there = Cursor(self.directories, top)

    def run(self, progress: Progress | None) -> None:
        """Run the export."""
        with closing(self.here), closing(self.there):
            self._make_directories()
            self._write_files(progress)
            for nid, directory, name in self.more:
                self._link(nid, directory, name)
            for number in reversed(range(len(self.directories))):
                self._finish_directory(number)

    def _make_directories(self) -> None:
        """Create everything but files with data and further hard links, which are recorded for later."""
        pending = [0]
        while pending:
            number = pending.pop()
            below = []
            cookie = 0
            for name, nid, file_type, following in self.tree.readdir(self.directories.nids[number]):
                if file_type != erofs.DIRECTORY:
                    self._make_file(number, name, nid, cookie)
                elif name not in {b".", b".."}:
                    below.append(self._make_directory(number, name, nid))
                cookie = following
            pending += reversed(below)

    def _make_directory(self, parent: int, name: bytes, nid: int) -> int:
        if len(self.directories) == self.tree.inode_count:
            raise InvalidImageError("tree image: directories form a loop: run `ocifs cache clear`")
        os.mkdir(name, 0o700, dir_fd=self.here.at(parent))
        return self.directories.add(nid, name, parent)

    def _make_file(self, directory: int, name: bytes, nid: int, cookie: int) -> None:
        if nid in self.first:
            self.more.append((nid, directory, name))
            return
        inode = self.tree.inode(nid)
        if data := data_of(self.rootfs, inode):
            self.stored += sum(piece.size for piece in data)
            if self.stored > self.rootfs.limits.output:
                raise self.rootfs.limits.passed("output", f"files of more than {self.rootfs.limits.output} bytes")
            self.files.add(place_of(self.rootfs, data), directory, cookie, inode.size)
        elif stat.S_ISREG(inode.mode):
            self._write_file(directory, name, inode, data, iter(()))
        elif not self._make_special(directory, name, inode):
            return
        if inode.nlink > 1:
            self.first[nid] = directory, name

    def _make_special(self, directory: int, name: bytes, inode: Inode) -> bool:
        """Create a symlink, device, FIFO or socket; return whether this process may."""
        here = self.here.at(directory)
        path = partial(self.directories.path, directory, name)
        kind = stat.S_IFMT(inode.mode)
        if kind == stat.S_IFLNK:
            os.symlink(self.tree.readlink(inode.nid), name, dir_fd=here)
        elif kind in _DEVICES and self.rootless:
            self.losses.add(Loss.PLACEHOLDER, path())
            os.close(os.open(name, _NEW, 0o600, dir_fd=here))
        else:
            try:
                os.mknod(name, kind | 0o600, inode.rdev, dir_fd=here)
            except PermissionError:
                self.losses.add(Loss.DEVICE, path())
                return False
            if kind == stat.S_IFCHR and not inode.rdev:
                self.losses.add(Loss.WHITEOUT, path())
        with opened(name, _BY_NAME, dir_fd=here) as fd:
            # A path to a file that only its name can open, such as a symlink: it leads to that very file.
            self.attributes.give(f"/proc/self/fd/{fd}", inode, self.tree.xattrs(inode.nid), path)
        return True

    def _write_files(self, progress: Progress | None) -> None:
        """Write the files that have data."""
        done = 0
        files, ahead = tee(self._in_order())
        with closing(contents(self.rootfs, (piece for _, _, _, data in ahead for piece in data))) as parts:
            for directory, name, inode, data in files:
                self._write_file(directory, name, inode, data, parts)
                done += inode.size
                if progress:
                    progress(done, self.files.size)

    def _in_order(self) -> Iterator[tuple[int, bytes, Inode, list[Data]]]:
        for directory, cookie in self.files.in_order():
            name, nid, _, _ = next(self.tree.readdir(self.directories.nids[directory], cookie))
            inode = self.tree.inode(nid)
            yield directory, name, inode, data_of(self.rootfs, inode)

    def _write_file(
        self, directory: int, name: bytes, inode: Inode, data: list[Data], parts: Iterator[memoryview]
    ) -> None:
        fd = os.open(name, _NEW, 0o600, dir_fd=self.here.at(directory))
        try:
            end = 0
            for piece in data:
                end = piece.offset
                for part in take(parts, piece.size):
                    end = _write(fd, part, end)
            if end < inode.size:
                os.truncate(fd, inode.size)
            self.attributes.give(
                fd, inode, self.tree.xattrs(inode.nid), partial(self.directories.path, directory, name)
            )
        finally:
            os.close(fd)

    def _link(self, nid: int, directory: int, name: bytes) -> None:
        first, first_name = self.first[nid]
        os.link(
            first_name,
            name,
            src_dir_fd=self.there.at(first),
            dst_dir_fd=self.here.at(directory),
            follow_symlinks=False,
        )

    def _finish_directory(self, number: int) -> None:
        """Set the attributes of a directory through its parent: afterwards it may be closed to this process."""
        directories = self.directories
        nid = directories.nids[number]
        here = self.here.at(directories.parents[number])
        with opened(directories.names[number] or b".", OPEN_DIRECTORY, dir_fd=here) as fd:
            self.attributes.give(fd, self.tree.inode(nid), self.tree.xattrs(nid), partial(directories.path, number))


class _Files:
    """Files with data, in columns: number of the directory, and cookie of the preceding entry."""

    def __init__(self) -> None:
        self.size = 0
        """Total bytes."""
        self._places = array("Q")
        self._directories = array("L")
        self._cookies = array("L")

    def add(self, place: int, directory: int, cookie: int, size: int) -> None:
        """Record a file of `size` bytes that starts at `place`."""
        self.size += size
        self._places.append(place)
        self._directories.append(directory)
        self._cookies.append(cookie)

    def in_order(self) -> Iterator[tuple[int, int]]:
        """Yield directory and cookie of each file, ordered by place."""
        for index in sorted(range(len(self._places)), key=self._places.__getitem__):
            yield self._directories[index], self._cookies[index]


def _write(fd: int, data: memoryview, offset: int) -> int:
    """Write all of `data` at `offset`, and return the end offset."""
    while data:
        written = os.pwrite(fd, data, offset)
        data = data[written:]
        offset += written
    return offset


def _make_plain(top: int) -> tuple[int, int]:
    """Clear what the top inherits from its parent: setgid and default ACLs; return the owner of new files."""
    for name in ACL_NAMES:
        with suppress(OSError):  # there is none, or there are no such things
            os.removexattr(top, name)
    with suppress(OSError):
        os.chown(top, os.geteuid(), os.getegid())
    os.chmod(top, 0o700)
    status = os.stat(top)
    return status.st_uid, status.st_gid
