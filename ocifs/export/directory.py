"""A rootfs -> a directory.

First the directories are made, closed to others, and all that has no bytes; then files, in the order in which their
bytes lie in the layers, so that each span is decoded once; then further names of files; then directories get their
attributes, which all this would have changed. Every name is reached by descriptors (`directories.py`).
"""

import os
import stat
from array import array
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from itertools import tee

from ocifs.erofs import format as erofs
from ocifs.erofs.reader import Inode
from ocifs.erofs.xattr import ACL_NAMES
from ocifs.errors import InvalidImageError
from ocifs.export.attributes import Attributes, PlainModes
from ocifs.export.data import Data, Progress, contents, data_of, directory_at, place_of, take
from ocifs.export.directories import OPEN_DIRECTORY, Cursor, Directories
from ocifs.export.losses import Loss, Losses
from ocifs.export.target import new_directory
from ocifs.image.rootfs import Rootfs

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BY_NAME = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
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
    """Write the directory at `path` of the image, and all below it, as the new directory `target`.

    `target` may be an empty directory. It appears when it is whole, or not at all. `rootless` records owners in the
    extended attribute `user.rootlesscontainers` instead of giving files away, and puts empty files for devices. `plain`
    leaves all attributes but permissions out, and takes from these what the umask does.

    Returns:
        What could not be made as the image says.

    Raises:
        NotFoundError: There is no directory at `path`.
        OcifsError: The target is in the way, or cannot be written.
        InvalidImageError: Bytes cannot be proven to be those that were indexed.
        LimitError: The files have more bytes than the limits of the rootfs allow.
    """
    nid = directory_at(rootfs, path)
    losses = Losses()
    with new_directory(target) as top:
        owner = _make_plain(top)
        attributes = PlainModes() if plain else Attributes(owner, losses, rootless=rootless)
        _Export(rootfs, nid, top, losses, attributes, rootless=rootless).run(progress)
    return losses


class _Export:
    """One export under way, to the open directory `top`."""

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
        self.directories = Directories(nid)
        self.files = _Files()
        self.first: dict[int, tuple[int, bytes]] = {}
        """Of a file with several names: nid to the first, as directory and name."""
        self.more: list[tuple[int, int, bytes]] = []
        """Further names: nid, directory, name."""
        self.here = Cursor(self.directories, top)
        self.there = Cursor(self.directories, top)

    def run(self, progress: Progress | None) -> None:
        """Do all of it."""
        with closing(self.here), closing(self.there):
            self._make_directories()
            self._write_files(progress)
            for nid, directory, name in self.more:
                self._link(nid, directory, name)
            for number in reversed(range(len(self.directories))):
                self._finish_directory(number)

    def _make_directories(self) -> None:
        """Make all but files with bytes and further names, which are noted."""
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
            raise InvalidImageError("tree image: directories form a loop; build it again")
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
        """Make a symlink, device, FIFO or socket; whether this process may."""
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
        fd = os.open(name, _BY_NAME, dir_fd=here)
        try:
            # The way to what is open by name only, such as a symlink: it leads to that very file.
            self.attributes.give(f"/proc/self/fd/{fd}", inode, self.tree.xattrs(inode.nid), path)
        finally:
            os.close(fd)
        return True

    def _write_files(self, progress: Progress | None) -> None:
        """Make the files that have bytes."""
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
        """Give a directory its attributes, from above: afterwards it may be closed to us, as all below may be."""
        directories = self.directories
        nid = directories.nids[number]
        here = self.here.at(directories.parents[number])
        fd = os.open(directories.names[number] or b".", OPEN_DIRECTORY, dir_fd=here)
        try:
            self.attributes.give(fd, self.tree.inode(nid), self.tree.xattrs(nid), partial(directories.path, number))
        finally:
            os.close(fd)


class _Files:
    """Files with bytes, in columns: number of the directory, and cookie of the entry before theirs."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes of all."""
        self._places = array("Q")
        self._directories = array("L")
        self._cookies = array("L")

    def add(self, place: int, directory: int, cookie: int, size: int) -> None:
        """Note a file of `size` bytes that begin at `place`."""
        self.size += size
        self._places.append(place)
        self._directories.append(directory)
        self._cookies.append(cookie)

    def in_order(self) -> Iterator[tuple[int, int]]:
        """Give directory and cookie of each, in the order of their places."""
        for index in sorted(range(len(self._places)), key=self._places.__getitem__):
            yield self._directories[index], self._cookies[index]


def _write(fd: int, data: memoryview, offset: int) -> int:
    """Write all of `data` at `offset`, and return where it ends."""
    while data:
        written = os.pwrite(fd, data, offset)
        data = data[written:]
        offset += written
    return offset


def _make_plain(top: int) -> tuple[int, int]:
    """Rid the top of what it would hand down of its own directory's: setgid, ACLs; return the owner of new files."""
    for name in ACL_NAMES:
        with suppress(OSError):  # there is none, or there are no such things
            os.removexattr(top, name)
    with suppress(OSError):
        os.chown(top, os.geteuid(), os.getegid())
    os.chmod(top, 0o700)
    status = os.stat(top)
    return status.st_uid, status.st_gid
