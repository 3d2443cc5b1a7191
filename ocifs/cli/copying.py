"""Copy files and directories of an image to the host.

Each is written under a temporary name beside its target, and renamed: other processes see it complete or not at all.
Only the user chooses the target; nothing in the image becomes a path on the host.
"""

import os
import stat
from pathlib import Path

from ocifs.atomic import atomic_file
from ocifs.cli.progress import working
from ocifs.erofs.reader import Inode
from ocifs.errors import OcifsError, UnsupportedError, printable_path
from ocifs.export.directory import export_directory
from ocifs.export.losses import Losses
from ocifs.image.rootfs import Rootfs

_CHUNK = 1 << 20


def copy(rootfs: Rootfs, path: str, destination: str, *, recursive: bool, preserve: bool) -> Losses:
    """Copy the file at `path` to `destination`, or into that directory under its own name.

    A directory becomes a new directory, or fills an empty one. A file replaces a file. An existing destination that is
    neither file nor directory (a device, a FIFO) receives the bytes.

    Args:
        rootfs: The source.
        path: In the image; a symlink at its end is followed.
        destination: On the host.
        recursive: Whether to allow a directory.
        preserve: Set mode and times, and the owner if this user may; for directories and their content also extended
            attributes.

    Returns:
        What could not be reproduced of a directory.

    Raises:
        NotFoundError: `path` does not exist.
        UnsupportedError: It is not a regular file, or a directory without `recursive`.
        OcifsError: The target cannot be written.
    """
    inode = rootfs.tree.inode(rootfs.lookup(path))
    if stat.S_ISDIR(inode.mode):
        if not recursive:
            raise UnsupportedError(f"{printable_path(path)}: is a directory: give -r to copy it with all below it")
        return _copy_directory(rootfs, path, destination, preserve=preserve)
    if not stat.S_ISREG(inode.mode):
        raise UnsupportedError(f"{printable_path(path)}: not a regular file")
    _copy_file(rootfs, inode, path, destination, preserve=preserve)
    return Losses()


def _copy_directory(rootfs: Rootfs, path: str, destination: str, *, preserve: bool) -> Losses:
    target = destination
    if os.path.isdir(destination):
        target = os.path.join(destination, path.rstrip("/").rpartition("/")[2])
    with working("copying") as progress:
        return export_directory(rootfs, path, target.rstrip("/") or "/", plain=not preserve, progress=progress)


def _copy_file(rootfs: Rootfs, inode: Inode, path: str, destination: str, *, preserve: bool) -> None:
    target = _target(path, destination)
    try:
        if target.exists() and not target.is_file():
            with target.open("wb", buffering=0) as out:
                _write_content(rootfs, inode, out.fileno(), seekable=False)
        else:
            # Like cp, follow a symlink at the destination.
            _write_new(rootfs, inode, Path(os.path.realpath(target)), preserve=preserve)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OcifsError(
            f"cannot copy {printable_path(path)} to {printable_path(str(target))}: {error.strerror}"
        ) from None


def _target(path: str, destination: str) -> Path:
    """Return the target path of the file."""
    target = Path(destination)
    if target.is_dir():
        target /= path.rstrip("/").rpartition("/")[2]
    elif destination.endswith("/"):
        raise OcifsError(f"{printable_path(destination)}: no such directory")
    if target.is_dir():
        raise OcifsError(f"{printable_path(str(target))}: is a directory: remove it, or choose another place")
    return target


def _write_new(rootfs: Rootfs, inode: Inode, target: Path, *, preserve: bool) -> None:
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with atomic_file(directory, target.name, inode.mode & 0o777, buffering=0) as file:
            _write_content(rootfs, inode, file.fileno(), seekable=True)
            if preserve:
                _preserve(inode, file.fileno())
    finally:
        os.close(directory)


def _preserve(inode: Inode, fd: int) -> None:
    mode = stat.S_IMODE(inode.mode)
    try:
        os.fchown(fd, inode.uid, inode.gid)
    except PermissionError:  # like cp: a set-id bit must not apply to another user
        mode &= ~(stat.S_ISUID | stat.S_ISGID)
    os.fchmod(fd, mode)
    os.utime(fd, ns=(inode.mtime_ns, inode.mtime_ns))


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
