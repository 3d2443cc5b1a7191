"""All that can be seen of a tree, as values: of a directory by system calls, of an image by its rootfs."""

import os
import stat
from pathlib import Path
from typing import NamedTuple

from ocifs.image.rootfs import Rootfs


class Seen(NamedTuple):
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    rdev: int
    target: bytes
    content: bytes
    xattrs: dict[bytes, bytes]
    names: frozenset[bytes]
    """Of a file that is not a directory: all names that it has."""


Snapshot = dict[bytes, Seen]


def of_image(rootfs: Rootfs, path: str = "/") -> Snapshot:
    """Return what an image says, by path below `path`."""
    found = dict(rootfs.walk(path))
    names: dict[int, set[bytes]] = {}
    for name, inode in found.items():
        names.setdefault(inode.nid, set()).add(name)
    return {
        name: Seen(
            inode.mode,
            inode.uid,
            inode.gid,
            inode.mtime_ns,
            inode.rdev,
            rootfs.readlink(inode.nid) if stat.S_ISLNK(inode.mode) else b"",
            rootfs.read(inode.nid, inode.size, 0) if stat.S_ISREG(inode.mode) else b"",
            rootfs.tree.xattrs(inode.nid),
            frozenset() if stat.S_ISDIR(inode.mode) else frozenset(names[inode.nid]),
        )
        for name, inode in found.items()
    }


def of_directory(directory: Path) -> Snapshot:
    """Return what the system says."""
    top = bytes(directory)
    paths = [top]
    for parent, directories, files in os.walk(top):
        paths += [os.path.join(parent, name) for name in directories + files]
    names: dict[int, set[bytes]] = {}
    for path in paths:
        names.setdefault(os.lstat(path).st_ino, set()).add(_below(path, top))
    return {_below(path, top): _seen(path, names) for path in paths}


def _below(path: bytes, top: bytes) -> bytes:
    return path[len(top) + 1 :]


def _seen(path: bytes, names: dict[int, set[bytes]]) -> Seen:
    status = os.lstat(path)
    return Seen(
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        status.st_rdev,
        os.readlink(path) if stat.S_ISLNK(status.st_mode) else b"",
        Path(os.fsdecode(path)).read_bytes() if stat.S_ISREG(status.st_mode) else b"",
        {
            os.fsencode(name): os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
        },
        frozenset() if stat.S_ISDIR(status.st_mode) else frozenset(names[status.st_ino]),
    )
