"""Directory blocks: entries sorted by name over the whole directory, including `.` and `..`.

A block of 512 bytes holds first the numbers of its entries, then their names. A name ends where the next begins, the
last one at the block's end or at a NUL. Source: struct erofs_dirent in Linux fs/erofs/erofs_fs.h, and dir.c and
namei.c there. This module knows nothing of inodes or of the position of blocks.
"""

import re
from collections.abc import Iterable, Sequence
from struct import Struct

from ocifs.erofs.format import BLOCK, DIRENT, NAME_MAX
from ocifs.errors import InvalidImageError, UnsupportedError, printable

MAX_ENTRIES = BLOCK // (DIRENT.size + 1)
_TABLES = [Struct("<" + "QHBx" * count) for count in range(MAX_ENTRIES + 1)]
_STARTS = [Struct("<" + "8xH2x" * count) for count in range(MAX_ENTRIES + 1)]
_NID = Struct("<Q")
_NAME = re.compile(rb"(?!\.\.?\Z)[^/\0]{1,%d}" % NAME_MAX)


def check_names(names: Iterable[bytes]) -> None:
    """Raise `InvalidImageError` for a name that no directory can hold, `UnsupportedError` for one over 255 bytes."""
    for name in names:
        if not _NAME.fullmatch(name):
            if len(name) > NAME_MAX:
                raise UnsupportedError(f"name of {len(name)} bytes, over {NAME_MAX}: {printable(name[:40])}…")
            raise InvalidImageError(f"{printable(name)!r} cannot be a file name")


def split(names: Sequence[bytes]) -> tuple[list[slice], int]:
    """Divide sorted names into blocks; return the blocks and the directory's size in bytes."""
    blocks = []
    first = used = 0
    for index, name in enumerate(names):
        size = DIRENT.size + len(name)
        used += size
        if used > BLOCK:
            blocks.append(slice(first, index))
            first, used = index, size
    return [*blocks, slice(first, len(names))], len(blocks) * BLOCK + used


def pack(names: Sequence[bytes], nids: Iterable[int], file_types: Iterable[int]) -> bytes:
    """Return the unpadded block of the entries, which must fit into one."""
    start = DIRENT.size * len(names)
    numbers: list[int] = []
    for name, nid, file_type in zip(names, nids, file_types, strict=True):
        numbers += (nid, start, file_type)
        start += len(name)
    return b"".join((_TABLES[len(names)].pack(*numbers), *names))


def unpack(block: bytes) -> list[tuple[bytes, int, int]]:
    """Return the (name, nid, file type) entries of a block, or raise `InvalidImageError`."""
    numbers = _TABLES[_count(block)].unpack_from(block)
    starts = numbers[1::3]
    ends = (*starts[1:], _end(block, starts[-1]))
    names = [block[start:end] for start, end in zip(starts, ends, strict=True)]
    text = block[starts[0] : ends[-1]]
    if b"/" in text or b"\0" in text or not all(names) or len(max(names, key=len)) > NAME_MAX:
        raise InvalidImageError("tree image: a directory block holds an invalid name: run `ocifs cache clear`")
    return list(zip(names, numbers[::3], numbers[2::3], strict=True))


def first_name(block: bytes) -> bytes:
    """Return the name of a block's first entry, or raise `InvalidImageError`."""
    starts = _STARTS[min(2, _count(block))].unpack_from(block)
    return block[starts[0] : starts[1] if len(starts) > 1 else _end(block, starts[0])]


def find(block: bytes, name: bytes) -> int | None:
    """Return the nid of `name` in a block, None if the block has no such name. Raises `InvalidImageError`."""
    position = block.find(name, DIRENT.size)
    if position < 0:
        return None
    starts = _STARTS[_count(block)].unpack_from(block)
    while position >= 0:  # the bytes of `name` may also occur inside or across other names
        if position in starts:
            index = starts.index(position)
            last = index + 1 == len(starts)
            if position + len(name) == (_end(block, position) if last else starts[index + 1]):
                nid: int = _NID.unpack_from(block, index * DIRENT.size)[0]
                return nid
        position = block.find(name, position + 1)
    return None


def _count(block: bytes) -> int:
    """Return the number of entries, from the offset of the first name."""
    if len(block) > DIRENT.size:
        start = block[8] | block[9] << 8
        count, remainder = divmod(start, DIRENT.size)
        if 0 < count <= MAX_ENTRIES and start < len(block) and not remainder:
            return count
    raise InvalidImageError("tree image: a directory block is malformed: run `ocifs cache clear`")


def _end(block: bytes, start: int) -> int:
    end = block.find(b"\0", start)
    return end if end >= 0 else len(block)
