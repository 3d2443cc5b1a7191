"""Copy files and directories of an image to the host.

Each is written under a temporary name beside its target, and renamed: other processes see it complete or not at all.
Only the user chooses the target; nothing in the image becomes a path on the host.
"""

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ocifs.atomic import atomic_file, atomic_rename
from ocifs.cli.progress import working
from ocifs.descriptor import opened
from ocifs.erofs.reader import Inode
from ocifs.errors import OcifsError, UnsupportedError, printable_path
from ocifs.export.attributes import Attributes
from ocifs.export.directory import export_directory
from ocifs.export.losses import Losses
from ocifs.image.rootfs import Rootfs

_CHUNK = 1 << 20


class Copying(NamedTuple):
    """How to copy."""

    recursive: bool = False
    """Whether to copy directories."""
    preserve: bool = False
    """Set mode and times, the owner if this user may, and extended attributes."""
    follow: bool = True
    """Follow a symlink at the end of a path in the image."""
    keep: bool = False
    """Keep existing files."""
    into: bool = True
    """Copy into the destination if it is a directory; False: it is the target itself."""
    made: Callable[[str, str], None] = lambda path, target: None
    """Called with the path in the image and the target of each file and directory that is copied."""


class _Target(NamedTuple):
    """The path of a copy."""

    path: str
    named: bool
    """Whether the user named it, and not only its directory: then it is followed if it is a symlink."""


def copy(rootfs: Rootfs, path: str, destination: str, how: Copying) -> Losses:
    """Copy the file at `path` to `destination`, or into that directory under its own name.

    A directory becomes a new directory, or is merged into an existing one. A file replaces a file. An existing
    `destination` that is neither file nor directory (a device, a FIFO) receives the bytes.

    Returns:
        What could not be reproduced.

    Raises:
        NotFoundError: `path` does not exist.
        UnsupportedError: It is a directory and the copy is not recursive, or it is a device, FIFO or socket.
        OcifsError: The target cannot be written.
    """
    inode = rootfs.tree.inode(rootfs.lookup(path, follow=how.follow))
    target = _target(path, destination, into=how.into)
    if stat.S_ISDIR(inode.mode):
        if not how.recursive:
            raise UnsupportedError(f"{printable_path(path)}: is a directory: give -r to copy it with all below it")
        if not target.named and os.path.islink(target.path):
            raise OcifsError(f"cannot replace {printable_path(target.path)}: it is a symlink: remove it")
        return _copy_directory(rootfs, path, target.path, how)
    if not stat.S_ISREG(inode.mode) and not stat.S_ISLNK(inode.mode):
        hint = "`ocifs export` writes a directory with such files"
        raise UnsupportedError(f"{printable_path(path)}: not a regular file: {hint}")
    losses = Losses()
    try:
        if _copy_file(rootfs, inode, path, target, how, losses):
            how.made(path, target.path)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OcifsError(
            f"cannot copy {printable_path(path)} to {printable_path(target.path)}: {error.strerror}"
        ) from None
    return losses


def _target(path: str, destination: str, *, into: bool) -> _Target:
    if not into or not os.path.isdir(destination):
        return _Target(destination, named=True)
    name = path.rstrip("/").rpartition("/")[2]
    return _Target(destination if name in {"", ".", ".."} else os.path.join(destination, name), named=False)


def _copy_directory(rootfs: Rootfs, path: str, target: str, how: Copying) -> Losses:
    from ocifs.export.merging import merge_directory

    plain = not how.preserve
    with working("copying") as progress:
        if not os.path.isdir(target):
            losses = export_directory(rootfs, path, target.rstrip("/"), plain=plain, progress=progress)
            moved = [(b"", rootfs.lookup(path))]
        elif os.path.samefile(target, "/"):
            raise OcifsError("/ is the root directory of this machine: name a directory in it")
        else:
            moved, losses = merge_directory(rootfs, path, target, plain=plain, keep=how.keep, progress=progress)
    for above, top in moved:
        for below, _ in rootfs.tree.walk(top):
            names = [os.fsdecode(name) for name in (above, below) if name]
            how.made(os.path.join(path, *names), os.path.join(target, *names))
    return losses


def _copy_file(rootfs: Rootfs, inode: Inode, path: str, target: _Target, how: Copying, losses: Losses) -> bool:
    """Copy a file or symlink; return whether it was copied."""
    place = Path(target.path)
    if place.is_dir() and (target.named or not place.is_symlink()):
        raise OcifsError(f"{printable_path(target.path)}: is a directory: remove it, or choose another place")
    if target.path.endswith("/"):
        raise OcifsError(f"{printable_path(target.path)}: no such directory")
    if how.keep and os.path.lexists(place):
        return False
    if target.named and stat.S_ISREG(inode.mode):
        if place.exists() and not place.is_file():
            with place.open("wb", buffering=0) as out:
                _write_content(rootfs, inode, out.fileno(), seekable=False)
            return True
        place = Path(os.path.realpath(place))  # like cp, follow a symlink that the user names
    with opened(place.parent, os.O_RDONLY | os.O_DIRECTORY) as directory:
        write = _write_new if stat.S_ISREG(inode.mode) else _link_new
        write(rootfs, inode, directory, place.name, how, losses)
    return True


def _write_new(rootfs: Rootfs, inode: Inode, directory: int, name: str, how: Copying, losses: Losses) -> None:
    with atomic_file(directory, name, inode.mode & 0o777, buffering=0) as file:
        _write_content(rootfs, inode, file.fileno(), seekable=True)
        if how.preserve:
            _preserve(rootfs, inode, file.fileno(), name, losses)


def _link_new(rootfs: Rootfs, inode: Inode, directory: int, name: str, how: Copying, losses: Losses) -> None:
    with atomic_rename(directory, name, lambda made, parent: os.unlink(made, dir_fd=parent)) as temporary:
        os.symlink(rootfs.readlink(inode.nid), temporary, dir_fd=directory)
        if how.preserve:
            with opened(temporary, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory) as fd:
                _preserve(rootfs, inode, f"/proc/self/fd/{fd}", name, losses)


def _preserve(rootfs: Rootfs, inode: Inode, file: int | str, name: str, losses: Losses) -> None:
    status = os.stat(file)
    attributes = Attributes((status.st_uid, status.st_gid), losses, rootless=False)
    attributes.give(file, inode, rootfs.tree.xattrs(inode.nid), lambda: os.fsencode(name))


def stream(rootfs: Rootfs, path: str) -> Losses:
    """Write a file to standard output, or a directory as a tar, in which names begin with that of the directory.

    Raises:
        NotFoundError: `path` does not exist.
        UnsupportedError: It is neither, or a tar would go to a terminal.
    """
    from ocifs.export.archive import write_tar

    inode = rootfs.tree.inode(rootfs.lookup(path))
    with open(sys.stdout.fileno(), "wb", closefd=False) as out:
        if stat.S_ISREG(inode.mode):
            _write_content(rootfs, inode, out.fileno(), seekable=False)
            return Losses()
        if not stat.S_ISDIR(inode.mode):
            raise UnsupportedError(f"{printable_path(path)}: not a regular file or directory")
        if out.isatty():
            raise UnsupportedError("standard output is a terminal: pipe the tar to a program")
        with working("copying") as progress:
            names = rootfs.canonical(os.fsencode(path).rstrip(b"/"))
            return write_tar(rootfs, path, out, prefix=b"".join(names[-1:]), progress=progress)


def _write_content(rootfs: Rootfs, inode: Inode, fd: int, *, seekable: bool) -> None:
    """Write the bytes; `seekable`: leave holes where the file has them."""
    offset = 0
    for address, length in rootfs.tree.extents_of(inode):
        end = offset + length
        while offset < end:
            if seekable and address is None:
                offset = end
                os.lseek(fd, end, os.SEEK_SET)
                break
            data = rootfs.read(inode.nid, min(_CHUNK, end - offset), offset)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            offset += len(data)
    if seekable:
        os.ftruncate(fd, inode.size)
