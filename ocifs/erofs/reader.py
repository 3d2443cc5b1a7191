"""Read a tree image in memory (usually mapped): attributes, names, links, extended attributes, extents.

Opening takes constant time, and the reader keeps nothing per file: like the kernel, it reads each answer from the
buffer. It does not trust the buffer: it checks each offset before use, and malformed data raise `InvalidImageError`.
Of layers it knows only the offsets and sizes of their tar streams.
"""

import mmap
import stat
from collections.abc import Callable, Iterator, Sequence
from struct import Struct
from typing import NamedTuple

from ocifs.erofs import directory, xattr
from ocifs.erofs import format as erofs
from ocifs.erofs.format import BLOCK, BLOCK_BITS, CHUNKED, INLINE, INODE, NID_BITS, PLAIN
from ocifs.errors import InvalidImageError, printable

_TYPE_MASK = 0o170000
_LAYOUTS = {kind | (1 | PLAIN << 1) << 16: PLAIN for kind in erofs.FILE_TYPES} | {
    stat.S_IFREG | (1 | CHUNKED << 1) << 16: CHUNKED,
    stat.S_IFDIR | (1 | INLINE << 1) << 16: INLINE,
    stat.S_IFLNK | (1 | INLINE << 1) << 16: INLINE,
}
"""Layout for each valid combination of file type and format."""
_DEVICES = frozenset({stat.S_IFCHR, stat.S_IFBLK})
_BODY = Struct("<HHH2xQI")
"""The first fields of an inode: format, xattr_icount, mode, size, u."""
_LAYER_MAX = 0xFFFF
_SLOT_BITS = 6
_SLOT_MASK = (1 << _SLOT_BITS) - 1


class Inode(NamedTuple):
    """An inode. `blocks` counts 512 bytes as `st_blocks` does, including holes."""

    nid: int
    mode: int
    nlink: int
    size: int
    uid: int
    gid: int
    mtime_ns: int
    rdev: int
    """As `st_rdev`; 0 unless it is a device."""
    blocks: int
    layout: int
    """PLAIN, INLINE or CHUNKED."""
    start: int
    """First block, or chunk format."""
    end: int
    """Offset in the image at which the inode and its extended attributes end."""
    layer: int
    """The layer whose entry set the file's attributes and bytes; the base layer is 0."""

    @property
    def has_xattrs(self) -> bool:
        """Whether it has extended attributes."""
        return self.end - (self.nid << NID_BITS) > INODE.size


class TreeImage:
    """The files of one tree image, by nid."""

    def __init__(self, data: bytes | mmap.mmap, layer_sizes: Sequence[int] | None) -> None:
        """Check the superblock. Raises `InvalidImageError` if `data` is not a tree image of these layers.

        Without `layer_sizes`, it has everything but the bytes of files: extents raise InvalidImageError.
        """
        self._data = data
        self.size = len(data)
        if self.size < erofs.SUPERBLOCK_END or self.size % BLOCK:
            raise InvalidImageError(f"tree image of {self.size} bytes: run `ocifs cache clear`")
        magic, _, bits, self.root, self.inode_count, blocks, _, label, incompatible = erofs.SUPERBLOCK.unpack_from(
            self._data, erofs.SUPERBLOCK_OFFSET
        )
        if magic != erofs.MAGIC or bits != BLOCK_BITS or incompatible & ~erofs.INCOMPAT_CHUNKED_FILE:
            raise InvalidImageError("not a tree image: run `ocifs cache clear`")
        if layer_sizes is not None and blocks != erofs.served_size(self.size, layer_sizes) // BLOCK:
            raise InvalidImageError("tree image of other layers: run `ocifs cache clear`")
        if not 0 < self.inode_count <= self.size // INODE.size:
            raise InvalidImageError(f"tree image that claims {self.inode_count} inodes: run `ocifs cache clear`")
        self.bases = erofs.layer_bases(self.size, layer_sizes or ())
        self._layer_sizes = tuple(layer_sizes or ())
        self._top = _LAYER_MAX if layer_sizes is None else max(0, len(layer_sizes) - 1)
        self.has_xattrs = erofs.LABEL_XATTRS in label
        """Whether any file has extended attributes."""
        self.has_acls = erofs.LABEL_ACLS in label
        """Whether any file has a POSIX ACL."""

    @property
    def warnings(self) -> tuple[int, str]:
        """The number of warnings when the tree was built, and the first warning, printable."""
        count, first = erofs.WARNINGS.unpack_from(self._data, 0)
        return count, printable(first.rstrip(b"\0"))

    def inode(self, nid: int) -> Inode:
        """Return the attributes of an inode."""
        position = nid << NID_BITS
        if not erofs.SUPERBLOCK_END <= position <= self.size - INODE.size:
            raise InvalidImageError(f"tree image: no inode {nid}: run `ocifs cache clear`")
        form, count, mode, size, start, serial, uid, gid, seconds, nanoseconds, nlink, layer = INODE.unpack_from(
            self._data, position
        )
        kind = mode & _TYPE_MASK
        layout = _LAYOUTS.get(kind | form << 16)
        if layout is None or size >> 63 or layer > self._top or not 0 < serial <= self.inode_count:
            raise InvalidImageError(f"tree image: inode {nid} is malformed: run `ocifs cache clear`")
        return Inode(
            nid,
            mode,
            nlink,
            size,
            uid,
            gid,
            seconds * 1_000_000_000 + nanoseconds,
            start if kind in _DEVICES else 0,
            (size + 511) >> 9,
            layout,
            start,
            position + INODE.size + (xattr.stored_size(count) if count else 0),
            layer,
        )

    def lookup(self, nid: int, name: bytes) -> int | None:
        """Return the nid of `name` in directory `nid`, or None, by binary search like the kernel."""
        body = self._body(nid, stat.S_IFDIR)
        return directory.find(self._block(body, self._search(body, name)), name)

    def cookie(self, nid: int, name: bytes) -> int:
        """Return a cookie for `readdir` at the block of directory `nid` that would hold `name`."""
        return self._search(self._body(nid, stat.S_IFDIR), name) << _SLOT_BITS

    def readdir(self, nid: int, cookie: int = 0) -> Iterator[tuple[bytes, int, int, int]]:
        """Yield (name, nid, file type, next cookie) of each entry in name order, including `.` and `..`.

        `cookie` is 0, or one yielded before: then continue after that entry without reading earlier ones. File types
        are those of `format.FILE_TYPES`.
        """
        body = self._body(nid, stat.S_IFDIR)
        slot = cookie & _SLOT_MASK
        for block in range(max(0, cookie >> _SLOT_BITS), (body[0] + BLOCK - 1) >> BLOCK_BITS):
            following = (block << _SLOT_BITS) + slot
            for name, child, file_type in directory.unpack(self._block(body, block))[slot:]:
                following += 1
                yield name, child, file_type, following
            slot = 0

    def entries(self, nid: int) -> Iterator[tuple[bytes, int, int]]:
        """Yield (name, nid, file type) of a directory by name, without `.` and `..`."""
        for name, child, file_type, _ in self.readdir(nid):
            if name not in {b".", b".."}:
                yield name, child, file_type

    def walk(self, nid: int, skips: Callable[[], bool] = lambda: False) -> Iterator[tuple[bytes, int]]:
        """Yield (path below `nid`, nid) of all files, depth first and in name order; `nid` itself has path b"".

        `skips` is called after a directory was yielded; if it returns True, the contents are left out.
        """
        yield b"", nid
        pending = [(b"", self.entries(nid))] if stat.S_ISDIR(self.inode(nid).mode) and not skips() else []
        directories = 1
        while pending:
            prefix, entries = pending[-1]
            for name, child, file_type in entries:
                yield prefix + name, child
                if file_type == erofs.DIRECTORY and not skips():
                    directories += 1
                    if directories > self.inode_count:
                        raise InvalidImageError("tree image: directories form a loop: run `ocifs cache clear`")
                    pending.append((prefix + name + b"/", self.entries(child)))
                    break
            else:
                pending.pop()

    def readlink(self, nid: int) -> bytes:
        """Return the target of a symlink."""
        body = self._body(nid, stat.S_IFLNK)
        if body[0] > erofs.SYMLINK_MAX:
            raise InvalidImageError(f"tree image: symlink {nid} of {body[0]} bytes: run `ocifs cache clear`")
        return b"".join(self._block(body, block) for block in range(-(-body[0] // BLOCK)))

    def xattrs(self, nid: int) -> dict[bytes, bytes]:
        """Return the extended attributes of an inode by their full names, ordered by name."""
        start = (nid << NID_BITS) + INODE.size
        return xattr.decode(self.read(self.inode(nid).end - start, start))

    def extents(self, nid: int, offset: int, size: int) -> list[tuple[int | None, int]]:
        """Return the extents of `size` bytes at `offset` of a regular file: (address in the served file, length).

        They are in order and end at the end of the file. The address of a hole is None.
        """
        return self._extents(self.inode(nid), offset, size)

    def extents_of(self, inode: Inode) -> list[tuple[int | None, int]]:
        """Return the extents of a whole regular file, as `extents` does."""
        return self._extents(inode, 0, inode.size)

    def layer_of(self, address: int) -> tuple[int, int] | None:
        """Return the layer and the offset in its tar stream of `address`; None inside the tree image."""
        return erofs.layer_at(self.bases, address)

    def read(self, size: int, address: int) -> bytes:
        """Return exactly `size` bytes at `address` of the tree image."""
        if not 0 <= address <= address + size <= self.size:
            raise InvalidImageError(f"tree image: {size} bytes at {address} lie outside: run `ocifs cache clear`")
        return self._data[address : address + size]

    def _extents(self, inode: Inode, offset: int, size: int) -> list[tuple[int | None, int]]:
        if not stat.S_ISREG(inode.mode):
            raise InvalidImageError(f"tree image: inode {inode.nid} is not a regular file: run `ocifs cache clear`")
        size = min(size, inode.size - offset)
        if size <= 0 or offset < 0:
            return []
        if inode.layout == CHUNKED:
            return self._chunks(inode, offset, size)
        address = (inode.start << BLOCK_BITS) + offset
        self._check(address, size)
        return [(address, size)]

    def _body(self, nid: int, kind: int) -> tuple[int, int, int]:
        """Return the size of a directory or symlink, and the offsets of its first block and its partial block."""
        position = nid << NID_BITS
        if not erofs.SUPERBLOCK_END <= position <= self.size - INODE.size:
            raise InvalidImageError(f"tree image: no inode {nid}: run `ocifs cache clear`")
        form, count, mode, size, start = _BODY.unpack_from(self._data, position)
        layout = _LAYOUTS.get(kind | form << 16)
        if layout is None or mode & _TYPE_MASK != kind:
            raise InvalidImageError(f"tree image: inode {nid} is not of type {kind:#o}: run `ocifs cache clear`")
        address = start << BLOCK_BITS
        if layout == INLINE:
            return size, address, position + INODE.size + xattr.stored_size(count)
        return size, address, address + (size & -BLOCK)

    def _search(self, body: tuple[int, int, int], name: bytes) -> int:
        """Return the block of a directory that would hold `name`."""
        low, high = 0, (body[0] + BLOCK - 1) >> BLOCK_BITS
        while high - low > 1:
            middle = (low + high) // 2
            if directory.first_name(self._block(body, middle)) <= name:
                low = middle
            else:
                high = middle
        return low

    def _block(self, body: tuple[int, int, int], index: int) -> bytes:
        """Return a block of a directory or symlink; the last one may be shorter."""
        size, address, partial = body
        start = index << BLOCK_BITS
        if size - start >= BLOCK:
            return self.read(BLOCK, address + start)
        return self.read(size - start, partial)

    def _chunks(self, inode: Inode, offset: int, size: int) -> list[tuple[int | None, int]]:
        if inode.start & ~erofs.CHUNK_BITS_MASK:
            raise InvalidImageError(f"tree image: inode {inode.nid} is malformed: run `ocifs cache clear`")
        bits = BLOCK_BITS + inode.start
        first, last = offset >> bits, (offset + size - 1) >> bits
        count = last - first + 1
        blocks = self.read(4 * count, inode.end + 4 * first)
        extents: list[tuple[int | None, int]] = []
        for block in Struct(f"<{count}I").unpack(blocks):
            length = min(size, (1 << bits) - (offset & (1 << bits) - 1))
            address = None if block == erofs.HOLE else (block << BLOCK_BITS) + (offset & (1 << bits) - 1)
            if address is not None:
                self._check(address, length)
            offset += length
            size -= length
            self._append(extents, address, length)
        return extents

    @staticmethod
    def _append(extents: list[tuple[int | None, int]], address: int | None, length: int) -> None:
        """Append an extent, or lengthen the last one if this continues it."""
        if extents:
            last, size = extents[-1]
            if address == (None if last is None else last + size):
                extents[-1] = (last, size + length)
                return
        extents.append((address, length))

    def _check(self, address: int, length: int) -> None:
        """Raise InvalidImageError unless the bytes lie within one layer's tar stream, or within the tree image."""
        location = self.layer_of(address)
        end = self._layer_sizes[location[0]] if location else self.size
        if (location[1] if location else address) + length > end:
            raise InvalidImageError(f"tree image: {length} bytes at {address} lie in no layer: run `ocifs cache clear`")
