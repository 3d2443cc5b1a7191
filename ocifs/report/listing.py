"""Files of an image as records, and the records as lines like those of ls(1) and stat(1), or as JSON.

Names stay bytes until they are rendered. JSON has no bytes: a name that is not UTF-8 is escaped there, with all its
bytes in base64 beside it.
"""

import base64
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Self

import msgspec

from ocifs.erofs.reader import Inode
from ocifs.image.rootfs import Rootfs
from ocifs.report.text import short_size

_TYPES = {
    stat.S_IFREG: "regular",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
_BATCH = 4096
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Show = Callable[[bytes], bytes]
"""Returns a name in the form to print."""
Paint = Callable[[bytes, "Listed"], bytes]
"""Returns a printable name in the colour of its file."""
Indicator = Callable[["Listed"], bytes]
"""Returns what to append to the name of a file."""


def unpainted(name: bytes, entry: "Listed") -> bytes:
    """Leave the name uncoloured."""
    return name


class ListedExtent(msgspec.Struct, frozen=True):
    """Where bytes of a file lie in a layer's tar stream."""

    layer: int
    """0 is the base."""
    offset: int
    size: int


class Listed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A file, as commands show it."""

    path: bytes
    inode: Inode
    target: bytes | None = None
    xattrs: dict[bytes, bytes] | None = None
    """None: not looked up; likewise for extents."""
    extents: tuple[ListedExtent, ...] | None = None
    whiteout: bool = False
    """In the changes of a layer: the layer removed the name."""
    opaque: bool = False
    """In the changes of a layer: the layer hides the lower content of the directory."""

    @classmethod
    def of(cls, rootfs: Rootfs, path: bytes, nid: int, *, detailed: bool = False) -> Self:
        """Describe a file."""
        inode = rootfs.tree.inode(nid)
        target = rootfs.readlink(nid) if stat.S_ISLNK(inode.mode) else None
        return cls(
            path=path,
            inode=inode,
            target=target,
            xattrs=rootfs.tree.xattrs(nid) if detailed else None,
            extents=_extents(rootfs, inode) if detailed else None,
            whiteout=rootfs.is_whiteout(inode),
            opaque=rootfs.is_opaque(inode),
        )

    @property
    def type(self) -> str:
        """The file type, as a word."""
        return "whiteout" if self.whiteout else _TYPES[stat.S_IFMT(self.inode.mode)]

    @property
    def mode(self) -> str:
        """Type and permissions, in the form of `ls -l`."""
        mode = stat.filemode(self.inode.mode)
        return f"w{mode[1:]}" if self.whiteout else mode

    @property
    def name(self) -> bytes:
        """The path to show; a whiteout has the name of its tar entry."""
        return whiteout_name(self.path) if self.whiteout else self.path


def whiteout_name(path: bytes) -> bytes:
    """Return the path of the whiteout that removes `path` (image-spec layer.md, "Whiteouts")."""
    directory, slash, name = path.rpartition(b"/")
    return directory + slash + b".wh." + name


def unmarked(entry: Listed) -> bytes:
    """Append nothing to the name."""
    return b""


def long_lines(
    entries: Iterable[Listed],
    show: Show,
    paint: Paint = unpainted,
    mark: Indicator = unmarked,
    *,
    human: bool = False,
    inodes: bool = False,
) -> Iterator[bytes]:
    """Yield a line for each entry, like `ls -ln --time-style=long-iso`.

    `mark` returns what follows the name and target, `human` prints sizes with units, and `inodes` begins with the inode
    number. Columns are aligned for some thousand lines at a time, so the first line need not wait for all of them.
    """
    left = iter(entries)
    widths = [0] * (7 if inodes else 6)
    while batch := list(islice(left, _BATCH)):
        rows = [_long_row(entry, human=human, inodes=inodes) for entry in batch]
        widths = [max(width, *map(len, column)) for width, column in zip(widths, zip(*rows, strict=True), strict=True)]
        cells = " ".join(f"{{:>{width}}}" for width in widths) + " "
        for row, entry in zip(rows, batch, strict=True):
            yield cells.format(*row).encode() + shown_with_target(entry, show, paint) + mark(entry)


def _long_row(entry: Listed, *, human: bool, inodes: bool) -> tuple[str, ...]:
    inode = entry.inode
    return (
        *([str(inode.nid)] if inodes else []),
        entry.mode,
        str(inode.nlink),
        str(inode.uid),
        str(inode.gid),
        size_or_device(inode, human=human),
        shown_time(inode.mtime_ns),
    )


def shown_with_target(entry: Listed, show: Show, paint: Paint) -> bytes:
    """Return the name, followed by the target of a symlink or the mark of an opaque directory."""
    after = b" (opaque)" if entry.opaque else b"" if entry.target is None else b" -> " + show(entry.target)
    return paint(show(entry.name), entry) + after


def describe(entry: Listed, layers: Sequence[str], show: Show) -> Iterator[bytes]:
    """Yield a full description like that of stat(1); `layers` are the digests of the layers."""
    inode = entry.inode
    yield b"  File: " + shown_with_target(entry, show, unpainted)
    device = f"  Device type: {size_or_device(inode)}" if inode.rdev else ""
    yield f"  Size: {inode.size}  Blocks: {inode.blocks}  Type: {entry.type}{device}".encode()
    yield f" Inode: {inode.nid}  Links: {inode.nlink}".encode()
    mode = f"{stat.S_IMODE(inode.mode):04o}/{entry.mode}"
    yield f"Access: ({mode})  Uid: {inode.uid}  Gid: {inode.gid}".encode()
    nanoseconds = inode.mtime_ns % 1_000_000_000
    yield f"Modify: {_time(inode.mtime_ns):%Y-%m-%d %H:%M:%S}.{nanoseconds:09d} +0000".encode()
    for name, value in (entry.xattrs or {}).items():
        yield b" Xattr: " + show(name) + b" = 0x" + value.hex().encode()
    if layers and not entry.extents:
        yield f" Layer: {inode.layer} {layers[inode.layer]}".encode()
    for extent in entry.extents or ():
        yield f" Layer: {extent.layer} {layers[extent.layer]}, tar bytes {extent.offset}+{extent.size}".encode()


def to_json(entry: Listed) -> bytes:
    """Return a JSON object on one line."""
    return msgspec.json.encode(members(entry))


def members(entry: Listed) -> dict[str, object]:
    """Return the members that describe a file in JSON."""
    inode = entry.inode
    fields: dict[str, object] = named("path", entry.path) | {
        "type": entry.type,
        "mode": f"{stat.S_IMODE(inode.mode):04o}",
        "inode": inode.nid,
        "nlink": inode.nlink,
        "uid": inode.uid,
        "gid": inode.gid,
        "size": inode.size,
        "mtime_ns": inode.mtime_ns,
        "layer": inode.layer,
    }
    if entry.target is not None:
        fields |= named("target", entry.target)
    if entry.opaque:
        fields["opaque"] = True
    if inode.rdev:
        fields["rdev"] = [os.major(inode.rdev), os.minor(inode.rdev)]
    if entry.xattrs is not None:
        fields["xattrs"] = [
            named("name", name) | {"value_base64": base64.b64encode(value).decode()}
            for name, value in entry.xattrs.items()
        ]
    if entry.extents is not None:
        fields["extents"] = entry.extents
    return fields


def named(key: str, name: bytes) -> dict[str, object]:
    """Return a name as members of a JSON object, with all its bytes in base64 if it is not UTF-8."""
    try:
        return {key: name.decode()}
    except UnicodeDecodeError:
        return {key: name.decode(errors="backslashreplace"), f"{key}_base64": base64.b64encode(name).decode()}


def _extents(rootfs: Rootfs, inode: Inode) -> tuple[ListedExtent, ...]:
    if not stat.S_ISREG(inode.mode):
        return ()
    found = []
    for address, size in rootfs.tree.extents_of(inode):
        place = None if address is None else rootfs.tree.layer_of(address)
        if place:
            found.append(ListedExtent(*place, size))
    return tuple(found)


def size_or_device(inode: Inode, *, human: bool = False) -> str:
    """Return the size; for a device, its numbers."""
    if inode.rdev:
        return f"{os.major(inode.rdev)}, {os.minor(inode.rdev)}"
    return short_size(inode.size) if human else str(inode.size)


def shown_time(nanoseconds: int) -> str:
    """Return a time like `ls --time-style=long-iso`, in the local time zone."""
    year, month, day, hour, minute, *_ = time.localtime(bounded_seconds(nanoseconds))
    return f"{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}"


def _time(nanoseconds: int) -> datetime:
    return _EPOCH + timedelta(seconds=bounded_seconds(nanoseconds))


def bounded_seconds(nanoseconds: int) -> int:
    """Return a time, clamped to the years 1 to 9999."""
    return min(max(nanoseconds // 1_000_000_000, -62_135_500_000), 253_402_200_000)
