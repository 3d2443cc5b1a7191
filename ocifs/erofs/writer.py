"""Compile a merged tree to its tree image.

Inodes come first, siblings together in name order. Each is followed by its extended attributes and by the last,
partial block of its directory or symlink; whole blocks follow all inodes. The image has no bytes of regular files,
except of those that no layer has: their inodes point into the layers' tar streams, at the offsets of `layer_bases`.
The output is deterministic. Nothing recurses, and the writer checks every number from a layer before it allocates
memory for it.
"""

import hashlib
import io
import logging
import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG

import msgspec

from ocifs.erofs import directory, sparse, xattr
from ocifs.erofs import format as erofs
from ocifs.erofs.format import BLOCK, FILE_TYPES, INODE, NID_BITS, NID_UNIT, round_up
from ocifs.errors import InvalidImageError, LimitError, OcifsError, UnsupportedError, counted, printable
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.tree.node import Extent, Node

Read = Callable[[int, int, int], bytes]
_DEVICES = frozenset({S_IFCHR, S_IFBLK})
_log = logging.getLogger(__name__)


class _Inode(msgspec.Struct, gc=False):
    """A node with its number, and the layout of its data in the image.

    Inodes refer to each other by their position in the list. So they form no reference cycles, and the garbage
    collector, which would otherwise take most of the time, can skip these objects.
    """

    node: Node
    name: bytes
    parent: int
    nlink: int = 1
    size: int = 0
    xattrs: bytes = b""
    inline: int = 0
    """Bytes that follow the inode and its extended attributes."""
    blocks: int = 0
    """Whole blocks of its data in the image."""
    start: int = 0
    """The first of these blocks."""
    listing: "_Listing | None" = None
    chunks: sparse.Chunks | None = None


class _Listing(msgspec.Struct, gc=False):
    """The entries of a directory."""

    names: Sequence[bytes]
    """Sorted."""
    children: Sequence[int]
    """The inode of each name."""
    division: Sequence[slice] = ()
    """The names in each block."""


def compile_tree(
    root: Node,
    layer_sizes: Sequence[int],
    read: Read,
    warn: Callable[[str], None] = _log.warning,
    warnings: Sequence[str] = (),
    limits: Limits = DEFAULT_LIMITS,
) -> bytes:
    """Return the tree image of the tree below `root`; its length is a multiple of 4096.

    `layer_sizes[k]` is the length of layer k's uncompressed tar stream. `read(layer, size, offset)` reads it; only
    sparse files with chunks to copy need that. The writer calls `warn` once if it leaves out extended attributes, and
    then stores `warnings` in the image.

    Raises `InvalidImageError` for a tree that no file system can hold, `UnsupportedError` for one that EROFS cannot
    hold, `LimitError` over the limit on paths, a bound on sparse files or the 2 TiB that EROFS can address.
    """
    inodes = _number(root, limits)
    _plan(inodes, layer_sizes, warn)
    size, nids = _place(inodes)
    total = erofs.served_size(size, layer_sizes) // BLOCK
    if total > erofs.MAX_BLOCKS:
        raise LimitError("the layers' tar streams exceed 2 TiB, more than a tree image can address: use fewer layers")
    bases = erofs.layer_bases(size, layer_sizes)
    buffer = io.BytesIO(bytes(size))  # getvalue() returns its bytes without a copy
    with buffer.getbuffer() as image:
        for number, inode in enumerate(inodes):
            end = (nids[number] << NID_BITS) + INODE.size
            try:
                _write_inode(image, inode, number, end, bases)
                if inode.inline or inode.blocks or inode.xattrs:
                    _write_content(image, inode, end, inodes, nids)
                if inode.chunks:
                    _write_chunks(image, inode, inode.chunks, end, bases, read)
            except OcifsError as error:
                raise _at(inodes, number, error) from error
        if warnings:
            _write_warnings(image, warnings)
        _write_superblock(image, inodes, nids[0], total)
    return buffer.getvalue()


def _number(root: Node, limits: Limits) -> list[_Inode]:
    """Return one inode for each node, in image order: siblings together, then each subtree in turn.

    It also limits the total length of all paths, since an export by name writes them all.
    """
    inodes = [_Inode(root, b"", 0)]
    pending = [(0, 0)]
    paths = 0
    while pending:
        parent, length = pending.pop()
        children = inodes[parent].node.children or {}
        special = {b".": parent, b"..": inodes[parent].parent}
        names = sorted(children)
        paths += len(names) * (length + 1) + sum(map(len, names))
        if paths > limits.paths:
            raise limits.passed("paths", f"the paths of the image have {paths} bytes together")
        try:
            directory.check_names(names)
        except OcifsError as error:
            raise _at(inodes, parent, error) from error
        numbers = []
        subdirectories = []
        for name in names:
            node = children[name]
            number = node.number
            if number >= len(inodes) or inodes[number].node is not node:  # else it is a further hard link
                number = node.number = len(inodes)
            numbers.append(number)
            if number == len(inodes):
                inodes.append(_Inode(node, name, parent))
                if node.children is not None:
                    subdirectories.append((number, length + 1 + len(name)))
            elif node.children is not None:
                raise InvalidImageError(f"{_path(inodes, number)}: a directory with two names")
            else:
                inodes[number].nlink += 1
        for name, number in special.items():
            position = bisect_left(names, name)
            names.insert(position, name)
            numbers.insert(position, number)
        inodes[parent].listing = _Listing(names, numbers)
        pending += reversed(subdirectories)
    return inodes


def _plan(inodes: Sequence[_Inode], layer_sizes: Sequence[int], warn: Callable[[str], None]) -> None:
    """Determine the data of each inode in the image, and limit the total for sparse files."""
    left_out: list[str] = []
    table = literal = 0
    for number, inode in enumerate(inodes):
        try:
            if inode.node.xattrs and (foreign := _plan_xattrs(inode)):
                left_out.append("" if left_out else f"{printable(min(foreign)[:255])} of {_path(inodes, number)}")
            _plan_content(inode, layer_sizes, is_root=number == 0)
            if inode.chunks:
                table += inode.inline
                literal += inode.blocks * BLOCK
                if table > sparse.MAX_TABLE or literal > sparse.MAX_LITERAL:
                    raise LimitError(
                        f"sparse files need more than {sparse.MAX_TABLE >> 20} MiB of chunk tables or "
                        f"{sparse.MAX_LITERAL >> 20} MiB of copied blocks together"
                    )
        except OcifsError as error:
            raise _at(inodes, number, error) from error
    if left_out:
        warn(
            f"extended attributes that EROFS has no namespace for are lost: of {counted(len(left_out), 'file')}, "
            f"as {left_out[0]}"
        )


def _plan_xattrs(inode: _Inode) -> list[bytes]:
    """Encode the extended attributes; return the names that EROFS cannot store."""
    xattrs = inode.node.xattrs
    foreign = [name for name in xattrs if not xattr.is_storable(name)]
    inode.xattrs = xattr.encode({name: xattrs[name] for name in xattrs.keys() - foreign})
    return foreign


def _plan_content(inode: _Inode, layer_sizes: Sequence[int], *, is_root: bool) -> None:
    node = inode.node
    kind = S_IFMT(node.mode)
    if kind not in FILE_TYPES or (kind == S_IFDIR) != (node.children is not None):
        raise InvalidImageError(f"mode {node.mode:#o} has no valid file type")
    if kind == S_IFREG and node.content:
        inode.size = len(node.content)
        _divide(inode, inline=False)
    elif kind == S_IFREG:
        inode.size = node.size
        if node.size:
            _plan_file(inode, node.extent, layer_sizes)
    elif inode.listing:
        inode.listing.division, inode.size = directory.split(inode.listing.names)
        _divide(inode, inline=not is_root)  # the root's position is fixed
    elif kind == S_IFLNK:
        inode.size = len(node.target)
        if inode.size > erofs.SYMLINK_MAX:
            raise UnsupportedError(f"symlink target of {inode.size} bytes, more than {erofs.SYMLINK_MAX}")
        if b"\0" in node.target:
            raise InvalidImageError("symlink target with a NUL byte")
        _divide(inode, inline=True)


def _plan_file(inode: _Inode, extent: Extent | None, layer_sizes: Sequence[int]) -> None:
    size = inode.size
    if not 0 < size < 1 << 63:
        raise InvalidImageError(f"file of {size} bytes")
    if extent is None:
        inode.chunks = sparse.cut(size, ())
    else:
        layer, offset, stored, pieces = extent.layer, extent.offset, extent.size, extent.sparse
        if not 0 <= layer < len(layer_sizes):
            raise InvalidImageError(f"data in layer {layer}, but the image has {len(layer_sizes)} layers")
        if not 0 <= offset <= offset + stored <= layer_sizes[layer]:
            raise InvalidImageError(f"data reach beyond the end of layer {layer}")
        if stored != (size if pieces is None else sum(length for _, length in pieces)):
            raise InvalidImageError(f"{stored} bytes stored, which contradicts its size or sparse map")
        if pieces is None and offset % BLOCK == 0:
            return
        inode.chunks = sparse.cut(size, sparse.pieces_of(size, offset, ((0, size),) if pieces is None else pieces))
    inode.inline = inode.chunks.table_size
    inode.blocks = inode.chunks.literal_blocks


def _divide(inode: _Inode, *, inline: bool) -> None:
    """Divide a directory's or symlink's bytes into whole blocks and, if `inline` and it fits, an inline tail."""
    inode.blocks, inode.inline = divmod(inode.size, BLOCK)
    if inode.inline and not (inline and len(inode.xattrs) + inode.inline <= BLOCK):
        inode.blocks += 1
        inode.inline = 0


def _place(inodes: Sequence[_Inode]) -> tuple[int, "array[int]"]:
    """Allocate each inode's blocks; return the size of the image, and the nid of each inode."""
    nids = array("Q")
    position = erofs.SUPERBLOCK_END
    for inode in inodes:
        end = position + INODE.size
        if tail := len(inode.xattrs) + inode.inline:
            if inode.inline and not inode.chunks and end % BLOCK + tail > BLOCK:
                end = round_up(end, BLOCK)  # an inline tail must not cross a block
            tail = round_up(tail, NID_UNIT)
        nids.append((end - INODE.size) >> NID_BITS)
        position = end + tail
    block = round_up(position, BLOCK) // BLOCK
    for inode in inodes:
        if inode.blocks:
            inode.start = block
            block += inode.blocks
    return round_up(block * BLOCK, erofs.PAGE), nids


def _write_inode(image: memoryview, inode: _Inode, number: int, end: int, bases: Sequence[int]) -> None:
    """Write the inode that ends at `end`."""
    node = inode.node
    seconds, nanoseconds = divmod(node.mtime_ns, 1_000_000_000)
    layout = erofs.CHUNKED if inode.chunks else erofs.INLINE if inode.inline else erofs.PLAIN
    try:
        INODE.pack_into(
            image,
            end - INODE.size,
            1 | layout << 1,
            xattr.count_field(len(inode.xattrs)) if inode.xattrs else 0,
            node.mode,
            inode.size,
            _first_block(inode, bases),
            number + 1,
            node.uid,
            node.gid,
            seconds,
            nanoseconds,
            inode.nlink,
            node.layer,
        )
    except struct.error:
        raise UnsupportedError(
            f"mode {node.mode:#o}, uid {node.uid}, gid {node.gid} or mtime {seconds} s does not fit an inode"
        ) from None


def _first_block(inode: _Inode, bases: Sequence[int]) -> int:
    """Return the inode's field `u`: first block, chunk format or device number (new_encode_dev)."""
    node = inode.node
    kind = S_IFMT(node.mode)
    if inode.chunks:
        return inode.chunks.bits - erofs.BLOCK_BITS
    if kind == S_IFREG:
        extent = node.extent if inode.size else None
        return (bases[extent.layer] + extent.offset) // BLOCK if extent else inode.start
    if kind in _DEVICES:
        major, minor = node.rdev
        if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
            raise UnsupportedError(f"device {major}:{minor} exceeds the 12 and 20 bits of Linux")
        return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
    return inode.start


def _write_content(image: memoryview, inode: _Inode, end: int, inodes: Sequence[_Inode], nids: Sequence[int]) -> None:
    """Write the extended attributes, and the bytes of a directory, a symlink or a file that no layer has."""
    _put(image, end, inode.xattrs)
    if not inode.chunks:
        node = inode.node
        content = _directory(inode.listing, inodes, nids) if inode.listing else node.target or node.content
        split = inode.blocks * BLOCK
        _put(image, inode.start * BLOCK, content[:split])
        _put(image, end + len(inode.xattrs), content[split:])


def _directory(listing: _Listing, inodes: Sequence[_Inode], nids: Sequence[int]) -> bytes:
    child_nids = [nids[number] for number in listing.children]
    types = [FILE_TYPES[S_IFMT(inodes[number].node.mode)] for number in listing.children]
    blocks = [directory.pack(listing.names[part], child_nids[part], types[part]) for part in listing.division]
    return b"".join(block.ljust(BLOCK, b"\0") for block in blocks[:-1]) + blocks[-1]


def _write_chunks(
    image: memoryview, inode: _Inode, chunks: sparse.Chunks, end: int, bases: Sequence[int], read: Read
) -> None:
    extent = inode.node.extent
    layer = extent.layer if extent else 0
    table = sparse.table(chunks, bases[layer] if extent else 0, inode.start)
    _put(image, end + len(inode.xattrs), table)
    position = inode.start * BLOCK
    for content in sparse.literal_bytes(chunks, lambda size, offset: read(layer, size, offset)):
        _put(image, position, content)
        position += len(content)


def _write_warnings(image: memoryview, warnings: Sequence[str]) -> None:
    first = warnings[0].encode()
    room = erofs.SUPERBLOCK_OFFSET - 4
    if len(first) > room:
        first = first[: room - 3].decode(errors="ignore").encode() + "…".encode()
    erofs.WARNINGS.pack_into(image, 0, len(warnings), first)


def _write_superblock(image: memoryview, inodes: Sequence[_Inode], root: int, total: int) -> None:
    """Write the superblock. Its UUID is a digest of everything else, so different images have different UUIDs."""
    label = erofs.LABEL
    attributed = [inode.node.xattrs for inode in inodes if inode.xattrs]
    if attributed:
        label += erofs.LABEL_XATTRS
    if not all(map(xattr.ACL_NAMES.isdisjoint, attributed)):
        label += erofs.LABEL_ACLS
    erofs.SUPERBLOCK.pack_into(
        image,
        erofs.SUPERBLOCK_OFFSET,
        erofs.MAGIC,
        erofs.COMPAT_MTIME,
        erofs.BLOCK_BITS,
        root,
        len(inodes),
        total,
        bytes(16),
        label,
        erofs.INCOMPAT_CHUNKED_FILE if any(inode.chunks for inode in inodes) else 0,
    )
    uuid = bytearray(hashlib.blake2b(image, digest_size=16).digest())
    uuid[6] = uuid[6] & 0x0F | 0x80  # version 8, custom
    uuid[8] = uuid[8] & 0x3F | 0x80
    _put(image, erofs.UUID_OFFSET, uuid)


def _put(image: memoryview, position: int, content: bytes | bytearray) -> None:
    image[position : position + len(content)] = content


def _path(inodes: Sequence[_Inode], number: int) -> str:
    """Return an inode's path for a message; only its last 100 names if it is longer."""
    names: list[bytes] = []
    while number and len(names) < 100:
        names.append(inodes[number].name)
        number = inodes[number].parent
    return ("…/" if number else "/") + printable(b"/".join(reversed(names)))


def _at(inodes: Sequence[_Inode], number: int, error: OcifsError) -> OcifsError:
    return type(error)(f"{_path(inodes, number)}: {error}")
