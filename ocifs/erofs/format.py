"""The structs and constants of EROFS that a tree image uses, and the layout of the served file.

The served file is the tree image, then each layer's uncompressed tar stream at its base. Blocks have 512 bytes, so the
data of a tar member, always 512-aligned, are a valid extent without a copy. All integers are little-endian. Sources:
Linux fs/erofs/erofs_fs.h and Documentation/filesystems/erofs.rst. This module knows nothing of trees.
"""

import stat
from bisect import bisect_right
from collections.abc import Sequence
from struct import Struct

MAGIC = 0xE0F5E1E2
BLOCK_BITS = 9
BLOCK = 1 << BLOCK_BITS
PAGE = 4096
BASE_ALIGNMENT = 1 << 20
MAX_BLOCKS = (1 << 32) - 1
"""Block addresses have 32 bits, and all ones is a hole."""

SUPERBLOCK = Struct("<I4xIB1xHQ8x4xI8x16s16sI44x")
"""struct erofs_super_block: magic, feature_compat, blkszbits, root_nid, inos, blocks, uuid, volume_name,
feature_incompat; all other fields are zero, including the optional checksum."""
SUPERBLOCK_OFFSET = 1024
WARNINGS = Struct("<I1020s")
"""The number of warnings when the tree was built, and the first warning in UTF-8. They lie before the superblock, in
the space for boot code."""
SUPERBLOCK_END = SUPERBLOCK_OFFSET + SUPERBLOCK.size
UUID_OFFSET = SUPERBLOCK_OFFSET + 48
COMPAT_MTIME = 0x2
INCOMPAT_CHUNKED_FILE = 0x4

LABEL = b"ocifs"
"""The volume name, a label that the kernel does not interpret. Two words may follow, so that callers need not read
every inode to know whether any has extended attributes or ACLs."""
LABEL_XATTRS = b" xattr"
LABEL_ACLS = b" acl"

INODE = Struct("<HHH2xQIIIIqIII12x")
"""struct erofs_inode_extended: format, xattr_icount, mode, size, u, ino, uid, gid, mtime, mtime_nsec, nlink, and the
layer in the first of 16 reserved bytes, which the kernel ignores.
`u` is the first block, the device number or the chunk format."""
NID_BITS = 5
"""An inode's nid is its offset in the image / 32, as meta_blkaddr is 0."""
NID_UNIT = 1 << NID_BITS
PLAIN, INLINE, CHUNKED = 0, 2, 4

DIRENT = Struct("<QHBx")
"""struct erofs_dirent: nid, offset of the name in the block, file type."""
NAME_MAX = 255
DIRECTORY = 2
SYMLINK = 7
FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: SYMLINK,
}
SYMLINK_MAX = 4095

HOLE = 0xFFFFFFFF
CHUNK_BITS_MASK = 0x1F
"""Mask of the chunk format: log2 of the blocks in a chunk. The other bits select tables that ocifs does not use."""


def round_up(number: int, unit: int) -> int:
    """Return the smallest multiple of `unit` that is at least `number`."""
    return -(-number // unit) * unit


def layer_bases(image_size: int, layer_sizes: Sequence[int]) -> list[int]:
    """Return the byte offset of each layer's tar stream in the served file, ascending.

    `image_size` is the length of the tree image, `layer_sizes` are the lengths of the uncompressed tar streams.
    """
    bases = []
    end = image_size
    for size in layer_sizes:
        bases.append(round_up(end, BASE_ALIGNMENT))
        end = bases[-1] + size
    return bases


def layer_at(bases: Sequence[int], address: int) -> tuple[int, int] | None:
    """Return (layer, offset from its base) of an address in the served file; None: in the tree image."""
    layer = bisect_right(bases, address) - 1
    return (layer, address - bases[layer]) if layer >= 0 else None


def served_size(image_size: int, layer_sizes: Sequence[int]) -> int:
    """Return the length of the served file: the end of the last layer's tar stream, in whole pages."""
    bases = layer_bases(image_size, layer_sizes)
    return round_up(bases[-1] + layer_sizes[-1] if bases else image_size, PAGE)
