"""Write a rootfs as a tar archive. The same tree always yields the same bytes.

Members follow a walk by name, each directory before its content. Most layers have that order too, so most spans are
decoded once. Nothing of the machine, the time or the user enters the archive. Sparse files use the GNU format 1.0. The
writer keeps the first path of each hard-linked file in memory, and nothing for other files.
"""

import stat
from collections.abc import Iterator
from contextlib import closing
from itertools import tee
from typing import BinaryIO, NamedTuple

from ocifs.erofs.reader import Inode
from ocifs.errors import OcifsError, printable
from ocifs.export import header
from ocifs.export.data import Data, Progress, contents, data_of, directory_at
from ocifs.export.header import Header, padded
from ocifs.export.losses import Loss, Losses
from ocifs.export.target import new_file
from ocifs.image.readahead import take
from ocifs.image.rootfs import Rootfs
from ocifs.limits import Limits

_FLAGS = {
    stat.S_IFREG: header.REGULAR,
    stat.S_IFLNK: header.SYMLINK,
    stat.S_IFCHR: header.CHARACTER,
    stat.S_IFBLK: header.BLOCK_DEVICE,
    stat.S_IFDIR: header.DIRECTORY,
    stat.S_IFIFO: header.FIFO,
}


def export_tar(
    rootfs: Rootfs, path: str, target: str, *, prefix: bytes = b"", progress: Progress | None = None
) -> Losses:
    """Write the directory at `path` of the image, and everything below it, to the new tar file `target`.

    `target` may be an empty file. It appears complete, or not at all. `prefix` is a relative path that precedes all
    names.

    Returns:
        What tar cannot represent.

    Raises:
        NotFoundError: `path` is not a directory of the image.
        OcifsError: The target exists or cannot be written; the prefix is absolute or contains `..`.
        InvalidImageError: A span does not verify.
        LimitError: The tar, or its extended headers, exceed a limit of the rootfs.
    """
    directory_at(rootfs, path)
    with new_file(target) as out:
        return write_tar(rootfs, path, out, prefix=prefix, progress=progress)


def write_tar(
    rootfs: Rootfs, path: str, out: BinaryIO, *, prefix: bytes = b"", progress: Progress | None = None
) -> Losses:
    """Do the same as `export_tar`, but append to the file object `out`."""
    nid = directory_at(rootfs, path)
    prefix = _clean(prefix)
    losses = Losses()
    total = sum(member.inode.size for member in _members(rootfs, nid, prefix) if member.data) if progress else 0
    done = 0
    writer = _Writer(out, rootfs.limits)
    members, ahead = tee(_members(rootfs, nid, prefix))
    with closing(contents(rootfs, (piece for member in ahead for piece in member.data))) as parts:
        for member in members:
            if stat.S_IFMT(member.inode.mode) not in _FLAGS:
                losses.add(Loss.SOCKET, b"/" + member.path)
                continue
            _write_member(rootfs, member, parts, writer)
            if progress and member.data:
                done += member.inode.size
                progress(done, total)
    writer.write(bytes(2 * header.BLOCK))
    out.flush()
    return losses


class _Writer:
    """The tar as it grows, within limits."""

    def __init__(self, out: BinaryIO, limits: Limits) -> None:
        self._out = out
        self._limits = limits
        self._size = 0
        self._extended = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append to the tar."""
        self._size += len(data)
        if self._size > self._limits.output:
            raise self._limits.passed("output", f"a tar of more than {self._limits.output} bytes")
        self._out.write(data)

    def write_headers(self, blocks: bytes) -> None:
        """Append the headers of a member: a plain block, and before it what is extended."""
        self._extended += len(blocks) - header.BLOCK
        if self._extended > self._limits.output_headers:
            what = f"a tar with more than {self._limits.output_headers} bytes of extended headers"
            raise self._limits.passed("output_headers", what)
        self.write(blocks)


def _clean(prefix: bytes) -> bytes:
    """Return the prefix with a trailing slash; empty if it adds nothing."""
    names = [name for name in prefix.split(b"/") if name not in {b"", b"."}]
    if prefix.startswith(b"/") or b".." in names:
        raise OcifsError(f"prefix {printable(prefix)}: name a relative path without '..'")
    return b"".join(name + b"/" for name in names)


class _Member(NamedTuple):
    """A file under one of its names."""

    path: bytes
    inode: Inode
    data: list[Data]
    first: bytes | None
    """The earlier path of the same file, for a hard link without data."""


def _members(rootfs: Rootfs, nid: int, prefix: bytes) -> Iterator[_Member]:
    first: dict[int, bytes] = {}
    for below, child in rootfs.tree.walk(nid):
        inode = rootfs.tree.inode(child)
        path = prefix + below
        if stat.S_ISDIR(inode.mode):
            yield _Member(path + b"/" if below else path or b"./", inode, [], None)
        elif child in first:
            yield _Member(path, inode, [], first[child])
        else:
            if inode.nlink > 1:
                first[child] = path
            yield _Member(path, inode, data_of(rootfs, inode), None)


def _write_member(rootfs: Rootfs, member: _Member, parts: Iterator[memoryview], out: _Writer) -> None:
    inode = member.inode
    described = Header(
        member.path,
        _FLAGS[stat.S_IFMT(inode.mode)],
        stat.S_IMODE(inode.mode),
        inode.uid,
        inode.gid,
        inode.mtime_ns,
        rdev=inode.rdev,
    )
    if member.first is not None:
        out.write_headers(header.encode(described._replace(flag=header.HARDLINK, link=member.first), {}, {}))
        return
    if stat.S_ISLNK(inode.mode):
        described = described._replace(link=rootfs.readlink(inode.nid))
    size = sum(piece.size for piece in member.data)
    records, sparse_map = _sparse(member) if stat.S_ISREG(inode.mode) and size < inode.size else ({}, b"")
    described = described._replace(size=len(sparse_map) + size)
    out.write_headers(header.encode(described, records, rootfs.tree.xattrs(inode.nid)))
    out.write(sparse_map)
    for part in take(parts, size):
        out.write(part)
    out.write(bytes(-size % header.BLOCK))


def _sparse(member: _Member) -> tuple[dict[bytes, bytes], bytes]:
    """Return the pax records of a sparse file, and the map that precedes its data."""
    pieces = [(piece.offset, piece.size) for piece in member.data]
    size = member.inode.size
    if not pieces or sum(pieces[-1]) < size:
        pieces.append((size, 0))  # GNU tar takes the length of the file from it
    records = {
        b"GNU.sparse.major": b"1",
        b"GNU.sparse.minor": b"0",
        b"GNU.sparse.name": member.path,
        b"GNU.sparse.realsize": b"%d" % size,
    }
    return records, padded(b"%d\n" % len(pieces) + b"".join(b"%d\n%d\n" % piece for piece in pieces))
