"""Parse the fields of a tar header block, with one function for each kind of value.

All raise InvalidImageError, which names the value; the caller adds the entry.
"""

import re
from functools import lru_cache
from zlib import adler32

from ocifs.errors import InvalidImageError, UnsupportedError, printable

GNU_MAGIC = b"ustar  \0"
INT64_MAX = 2**63 - 1
NAME_MAX = 255
PATH_MAX = 4095

_ID_MAX = 2**32 - 2
_OCTAL = re.compile(rb"[0-7]*")


def text(field: bytes) -> bytes:
    """Return `field` up to its first NUL."""
    return field.partition(b"\0")[0]


@lru_cache(4096)
def number(field: bytes) -> int:
    """Return a header's number: octal digits, or base-256 if the first bit is set; 0 if blank."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=True)
        return value if field[0] & 0x40 else value + (1 << 8 * len(field) - 1)
    digits = text(field.strip(b" \0"))
    if not _OCTAL.fullmatch(digits):
        raise InvalidImageError(f"number '{printable(field)}' is not octal")
    return int(digits or b"0", 8)


def check_sum(block: bytes) -> None:
    """Check the checksum of a header block."""
    # The low half of Adler-32 is 1 + the sum of the bytes, mod 65521: exact for 256 bytes.
    total = (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2
    expected = _plain_sum(block[148:156])
    if total != expected:
        # Historical tars summed signed bytes.
        high = sum(byte >= 128 for byte in block[:148] + block[156:])
        if total - 256 * high != expected:
            raise InvalidImageError("its header has a wrong checksum, or is not a tar header")


@lru_cache(4096)
def _plain_sum(field: bytes) -> int:
    """Return the expected sum of the header's other bytes, as the checksum counts its own `field` as eight spaces."""
    return number(field) + sum(field) - 8 * 0x20


def check_size(size: int) -> int:
    """Return `size` if a file can have that size."""
    if not 0 <= size <= INT64_MAX:
        raise InvalidImageError(f"size {size} is not possible")
    return size


def check_owner(uid: int, gid: int) -> None:
    """Check that the ids are valid in Linux, where 2**32 - 1 means "none"."""
    if not (0 <= uid <= _ID_MAX and 0 <= gid <= _ID_MAX):
        raise InvalidImageError(f"owner {uid}:{gid} is outside 0..{_ID_MAX}")


def check_path(path: bytes) -> None:
    """Check that Linux allows the path. An empty path names the root; the caller checks if its kind allows that."""
    if len(path) > NAME_MAX and (len(path) > PATH_MAX or max(map(len, path.split(b"/"))) > NAME_MAX):
        raise InvalidImageError(f"a path over {PATH_MAX} bytes, or a name in it over {NAME_MAX}")


def check_target(target: bytes) -> None:
    """Check that Linux allows the target of a link."""
    if not 0 < len(target) <= PATH_MAX:
        raise InvalidImageError(f"a link target of {len(target)} bytes; 1..{PATH_MAX} are possible")


def device(major: bytes, minor: bytes) -> tuple[int, int]:
    """Return a device number within the 12 and 20 bits of Linux."""
    rdev = number(major), number(minor)
    if not (0 <= rdev[0] < 1 << 12 and 0 <= rdev[1] < 1 << 20):
        raise InvalidImageError(f"device number {rdev[0]}:{rdev[1]} does not exist in Linux")
    return rdev


def unsupported_type(name: bytes, meaning: str = "") -> UnsupportedError:
    """Return the error for an entry whose type is `name`."""
    return UnsupportedError(
        f"unsupported type '{printable(name)}'{meaning}: only files, links, directories, devices and FIFOs are possible"
    )


def prefix(field: bytes, magic: bytes, tail: bytes) -> bytes:
    """Return the path prefix of `field`, including its slash."""
    if magic[:6] == b"ustar\0":
        # star stores times in the last 24 bytes.
        return text(field[:131] if tail.endswith(b"tar\0") else field) + b"/"
    # GNU tar stores times here, but Go before 1.8, which built many images, wrote a prefix.
    if magic == GNU_MAGIC and not (_is_time(field[:12]) and _is_time(field[12:24])) and text(field).isascii():
        return text(field) + b"/"
    return b""


def _is_time(field: bytes) -> bool:
    return field[0] == 0 or field[0] >= 0x80 or _OCTAL.fullmatch(text(field.strip(b" \0"))) is not None
