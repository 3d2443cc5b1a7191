"""Extended attributes, which follow an inode: a header of 12 bytes, then the entries, each padded to 4 bytes.

A name is stored as the number of its namespace and the rest. EROFS cannot store names in namespaces without a number.
Source: struct erofs_xattr_ibody_header and erofs_xattr_entry in Linux fs/erofs/erofs_fs.h.
"""

from collections.abc import Mapping
from struct import Struct

from ocifs.erofs.format import round_up
from ocifs.errors import InvalidImageError, LimitError, UnsupportedError, printable

ACL_NAMES = frozenset({b"system.posix_acl_access", b"system.posix_acl_default"})
_PREFIXES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
}
_HEADER_SIZE = 12
_ENTRY = Struct("<BBH")
_MAX_SIZE = _HEADER_SIZE + 4 * 0xFFFE


def is_storable(name: bytes) -> bool:
    """Whether `name` is in a namespace that EROFS has a number for."""
    return _index(name) is not None


def encode(xattrs: Mapping[bytes, bytes]) -> bytes:
    """Return the attributes in stored form, sorted by name; b"" if there are none. All must be storable.

    Raises `UnsupportedError` for a name or value that is too long, `LimitError` if the attributes together are.
    """
    if not xattrs:
        return b""
    stored = bytearray(_HEADER_SIZE)
    for name, value in sorted(xattrs.items()):
        index = _index(name)
        if index is None:
            raise UnsupportedError(f"EROFS cannot store the extended attribute {printable(name)}")
        rest = name[len(_PREFIXES[index]) :]
        if len(rest) > 0xFF or len(value) > 0xFFFF:
            raise UnsupportedError(
                f"extended attribute {printable(name[:40])} has {len(name)} bytes of name and {len(value)} of value: "
                "at most 255 and 65535 are possible"
            )
        stored += _ENTRY.pack(len(rest), index, len(value)) + rest + value
        stored += bytes(-len(stored) % 4)
        if len(stored) > _MAX_SIZE:
            raise LimitError(f"extended attributes exceed {_MAX_SIZE} bytes")
    return bytes(stored)


def count_field(stored_size: int) -> int:
    """Return the inode's xattr_icount for attributes of `stored_size` bytes in stored form."""
    return (stored_size - _HEADER_SIZE) // 4 + 1 if stored_size else 0


def stored_size(count_field: int) -> int:
    """Return the bytes of attributes after the inode, from its xattr_icount."""
    return 4 * (count_field - 1) + _HEADER_SIZE if count_field else 0


def decode(stored: bytes) -> dict[bytes, bytes]:
    """Return the attributes in their stored order, or raise `InvalidImageError`."""
    xattrs = {}
    position = _HEADER_SIZE
    while position < len(stored):
        length, index, size = _ENTRY.unpack_from(stored, position)
        start = position + _ENTRY.size + length
        position = round_up(start + size, 4)
        if index not in _PREFIXES or position > len(stored):
            raise InvalidImageError("tree image: an extended attribute is malformed: run `ocifs cache clear`")
        xattrs[_PREFIXES[index] + stored[start - length : start]] = stored[start : start + size]
    return xattrs


def _index(name: bytes) -> int | None:
    if b"\0" in name:
        return None
    for index, prefix in _PREFIXES.items():
        if name == prefix if prefix in ACL_NAMES else name.startswith(prefix) and name != prefix:
            return index
    return None
