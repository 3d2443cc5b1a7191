"""Files of an image as records, and the records as lines in the manner of ls(1) and stat(1), or as JSON.

Names stay bytes until a line is made; JSON has no bytes, so there a name that is not UTF-8 is escaped, and given whole
in base64 beside it.
"""

import base64
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Self

import msgspec

from ocifs.erofs.reader import Inode
from ocifs.image.rootfs import Rootfs

_TYPES = {
    stat.S_IFREG: "regular",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Show = Callable[[bytes], bytes]
"""A name as it may be written out."""


class Extent(msgspec.Struct, frozen=True):
    """Where bytes of a file lie: in a layer's tar stream."""

    layer: int
    """0 is the base."""
    offset: int
    size: int


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A file, as commands show it."""

    path: bytes
    inode: Inode
    target: bytes | None = None
    xattrs: dict[bytes, bytes] | None = None
    """None: not asked for; so with extents."""
    extents: tuple[Extent, ...] | None = None

    @classmethod
    def of(cls, rootfs: Rootfs, path: bytes, nid: int, *, detailed: bool = False) -> Self:
        """Describe a file."""
        inode = rootfs.tree.inode(nid)
        target = rootfs.readlink(nid) if stat.S_ISLNK(inode.mode) else None
        if not detailed:
            return cls(path=path, inode=inode, target=target)
        return cls(
            path=path, inode=inode, target=target, xattrs=rootfs.tree.xattrs(nid), extents=_extents(rootfs, inode)
        )

    @property
    def is_hidden(self) -> bool:
        """Whether ls leaves it out: its name, or that of a directory above it in the listing, begins with a dot."""
        return any(name.startswith(b".") for name in self.path.split(b"/"))

    @property
    def type(self) -> str:
        """The file type, as a word."""
        return _TYPES[stat.S_IFMT(self.inode.mode)]


def list_directory(rootfs: Rootfs, path: bytes, *, recursive: bool, itself: bool) -> Iterator[Listed]:
    """Give what is in a directory by name, or all that is below it; of another file, itself.

    Raises:
        NotFoundError: There is nothing at `path`.
    """
    nid = rootfs.lookup(path)
    if itself or not stat.S_ISDIR(rootfs.tree.inode(nid).mode):
        yield Listed.of(rootfs, path, rootfs.lookup(path, follow=False))
    elif recursive:
        for below, child in rootfs.tree.walk(nid):
            if below:
                yield Listed.of(rootfs, below, child)
    else:
        for name, child, _, _ in rootfs.tree.readdir(nid):
            if name not in {b".", b".."}:
                yield Listed.of(rootfs, name, child)


def long_lines(entries: Sequence[Listed], show: Show) -> Iterator[bytes]:
    """Give a line for each, as `ls -ln --time-style=long-iso` does."""
    rows = [
        (
            stat.filemode(entry.inode.mode),
            str(entry.inode.nlink),
            str(entry.inode.uid),
            str(entry.inode.gid),
            _size_or_device(entry.inode),
            f"{_time(entry.inode.mtime_ns).astimezone():%Y-%m-%d %H:%M}",
        )
        for entry in entries
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, entry in zip(rows, entries, strict=True):
        mode, *numbers, time = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        arrow = b"" if entry.target is None else b" -> " + show(entry.target)
        yield " ".join((mode, *numbers, time)).encode() + b" " + show(entry.path) + arrow


def describe(entry: Listed, layers: Sequence[str], show: Show) -> Iterator[bytes]:
    """Give lines that tell all there is, in the manner of stat(1); `layers` are the layers' digests."""
    inode = entry.inode
    arrow = b"" if entry.target is None else b" -> " + show(entry.target)
    yield b"  File: " + show(entry.path) + arrow
    device = f"  Device type: {_size_or_device(inode)}" if inode.rdev else ""
    yield f"  Size: {inode.size}  Blocks: {inode.blocks}  Type: {entry.type}{device}".encode()
    yield f" Inode: {inode.nid}  Links: {inode.nlink}".encode()
    mode = f"{stat.S_IMODE(inode.mode):04o}/{stat.filemode(inode.mode)}"
    yield f"Access: ({mode})  Uid: {inode.uid}  Gid: {inode.gid}".encode()
    nanoseconds = inode.mtime_ns % 1_000_000_000
    yield f"Modify: {_time(inode.mtime_ns):%Y-%m-%d %H:%M:%S}.{nanoseconds:09d} +0000".encode()
    for name, value in (entry.xattrs or {}).items():
        yield b" Xattr: " + show(name) + b" = 0x" + value.hex().encode()
    for extent in entry.extents or ():
        yield f" Layer: {extent.layer} {layers[extent.layer]}, tar bytes {extent.offset}+{extent.size}".encode()


def to_json(entry: Listed) -> bytes:
    """Return a JSON object on one line."""
    inode = entry.inode
    fields: dict[str, object] = _named("path", entry.path) | {
        "type": entry.type,
        "mode": f"{stat.S_IMODE(inode.mode):04o}",
        "inode": inode.nid,
        "nlink": inode.nlink,
        "uid": inode.uid,
        "gid": inode.gid,
        "size": inode.size,
        "mtime_ns": inode.mtime_ns,
    }
    if entry.target is not None:
        fields |= _named("target", entry.target)
    if inode.rdev:
        fields["rdev"] = [os.major(inode.rdev), os.minor(inode.rdev)]
    if entry.xattrs is not None:
        fields["xattrs"] = [
            _named("name", name) | {"value_base64": base64.b64encode(value).decode()}
            for name, value in entry.xattrs.items()
        ]
    if entry.extents is not None:
        fields["extents"] = entry.extents
    return msgspec.json.encode(fields)


def _named(key: str, name: bytes) -> dict[str, object]:
    try:
        return {key: name.decode()}
    except UnicodeDecodeError:
        return {key: name.decode(errors="backslashreplace"), f"{key}_base64": base64.b64encode(name).decode()}


def _extents(rootfs: Rootfs, inode: Inode) -> tuple[Extent, ...]:
    if not stat.S_ISREG(inode.mode):
        return ()
    found = []
    for address, size in rootfs.tree.extents(inode.nid, 0, inode.size):
        place = None if address is None else rootfs.tree.layer_of(address)
        if place:
            found.append(Extent(*place, size))
    return tuple(found)


def _size_or_device(inode: Inode) -> str:
    return f"{os.major(inode.rdev)}, {os.minor(inode.rdev)}" if inode.rdev else str(inode.size)


def _time(nanoseconds: int) -> datetime:
    """Return a time, the nearest one that can be written where it lies beyond the years 1 to 9999."""
    seconds = min(max(nanoseconds // 1_000_000_000, -62_135_500_000), 253_402_200_000)
    return _EPOCH + timedelta(seconds=seconds)
