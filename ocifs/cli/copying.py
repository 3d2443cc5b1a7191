"""One regular file of an image, written to the host.

The file is written under a temporary name beside its place, and renamed: whoever looks finds it whole or not at all.
Where it goes is the user's word alone; nothing that the image says becomes a path.
"""

import contextlib
import os
import secrets
import stat
from pathlib import Path

from ocifs.erofs.reader import Inode
from ocifs.errors import OcifsError, UnsupportedError, printable_path
from ocifs.image.rootfs import Rootfs

_CHUNK = 1 << 20


def copy_file(rootfs: Rootfs, path: str, destination: str, *, preserve: bool) -> None:
    """Copy the regular file at `path` to the file `destination`, or into that directory by its own name.

    A destination that is there and is neither (a device, a FIFO) is written into.

    Args:
        rootfs: Where the file is.
        path: In the image; a symlink at its end is followed.
        destination: On the host.
        preserve: Mode and times, and the owner where this user may give files away.

    Raises:
        NotFoundError: There is nothing at `path`.
        UnsupportedError: It is no regular file.
        OcifsError: The file cannot be written.
    """
    inode = rootfs.tree.inode(rootfs.lookup(path))
    if stat.S_ISDIR(inode.mode):
        raise UnsupportedError(
            f"{printable_path(path)}: is a directory: copy it with `ocifs export IMAGE PATH --to-dir DIR`"
        )
    if not stat.S_ISREG(inode.mode):
        raise UnsupportedError(f"{printable_path(path)}: not a regular file")
    target = _target(path, destination)
    try:
        if target.exists() and not target.is_file():
            with target.open("wb", buffering=0) as out:
                _write_content(rootfs, inode, out.fileno(), seekable=False)
        else:
            # Like cp, through a symlink to what it leads to.
            _write_new(rootfs, inode, Path(os.path.realpath(target)), preserve=preserve)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OcifsError(
            f"cannot copy {printable_path(path)} to {printable_path(str(target))}: {error.strerror}"
        ) from None


def _target(path: str, destination: str) -> Path:
    """Return where the file goes."""
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
        fd, temporary = _create(directory, inode.mode & 0o777)
        try:
            _write_content(rootfs, inode, fd, seekable=True)
            if preserve:
                _preserve(inode, fd)
            os.fsync(fd)
            os.rename(temporary, target.name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
            raise
        finally:
            os.close(fd)
    finally:
        os.close(directory)


def _create(directory: int, mode: int) -> tuple[int, str]:
    name = f".ocifs-{secrets.token_hex(8)}"
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=directory), name


def _preserve(inode: Inode, fd: int) -> None:
    mode = stat.S_IMODE(inode.mode)
    try:
        os.fchown(fd, inode.uid, inode.gid)
    except PermissionError:  # as cp: a set-id bit must not come to mean another user
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
