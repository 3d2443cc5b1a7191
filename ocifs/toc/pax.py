"""Parse the records of pax extended headers, and their values.

Sources: POSIX.1-2017, pax, "pax Extended Header"; star and libarchive for extended attributes. All functions raise
InvalidImageError, which names the record; the caller adds the entry.
"""

import binascii
import re
from urllib.parse import unquote_to_bytes

from ocifs.errors import InvalidImageError, printable
from ocifs.limits import Limits
from ocifs.toc.field import INT64_MAX, NAME_MAX, number

# Numbers as Go's strconv.ParseInt reads them: with a sign, and any number of leading zeros.
_LENGTH = re.compile(rb"(\+?0*[1-9][0-9]{0,6}) ")
_DECIMAL = re.compile(rb"([+-]?)0*([0-9]{1,19})")
_SECONDS = re.compile(rb"([+-]?)0*([0-9]{1,40})(?:\.([0-9]*))?")
_NAMES = frozenset((b"path", b"linkpath", b"GNU.sparse.name"))
_PIECE = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")


def parse(data: bytes) -> dict[bytes, bytes]:
    r"""Return the records of a pax header: "LENGTH KEY=VALUE\n", where LENGTH includes itself.

    The repeated keys of a sparse file of version 0.0 become the map of version 0.1, and the name of a sparse file
    becomes its path.
    """
    records: dict[bytes, bytes] = {}
    pieces: list[bytes] = []
    at = 0
    while at < len(data):
        key, value, at = _record(data, at)
        if key in _PIECE:
            if key != _PIECE[len(pieces) % 2]:
                raise InvalidImageError("sparse offsets and lengths do not alternate")
            pieces.append(value)
        else:
            records[key] = value
    if pieces:
        records[b"GNU.sparse.map"] = b",".join(pieces)
    if name := records.get(b"GNU.sparse.name"):
        records[b"path"] = name
    return records


def _record(data: bytes, at: int) -> tuple[bytes, bytes, int]:
    """Return key, value and end of the record at `at`."""
    length = _LENGTH.match(data, at)
    if length is None:
        raise InvalidImageError(f"a pax record without length, at byte {at} of the extended header")
    end = at + int(length[1].lstrip(b"+0"))
    key, equals, value = data[length.end() : end - 1].partition(b"=")
    if not (key and equals) or data[end - 1 : end] != b"\n":
        raise InvalidImageError(f"a malformed pax record, at byte {at} of the extended header")
    if b"\0" in key or (key in _NAMES and b"\0" in value):
        raise InvalidImageError(f"a NUL in pax record '{printable(key[:40])}'")
    return key, value, end


def decimal(digits: bytes) -> int:
    """Return a decimal number, which must fit 64 bits."""
    match = _DECIMAL.fullmatch(digits)
    if match is None or (value := int(match[2])) > INT64_MAX:
        raise InvalidImageError(f"number '{printable(digits[:40])}' is not decimal, or too large")
    return -value if match[1] == b"-" else value


def integer(records: dict[bytes, bytes], key: bytes, field: bytes) -> int:
    """Return the number in record `key`, else in `field` of the header block."""
    value = records.get(key)
    return decimal(value) if value else number(field)


def mtime(records: dict[bytes, bytes], field: bytes) -> int:
    """Return the time in ns from record mtime (seconds with a fraction of any length), else from `field`."""
    value = records.get(b"mtime")
    if not value:
        return number(field) * 10**9
    match = _SECONDS.fullmatch(value)
    if match is None:
        raise InvalidImageError(f"time '{printable(value[:40])}' is not a number of seconds")
    time = int(match[2]) * 10**9 + int((match[3] or b"")[:9].ljust(9, b"0"))
    return -time if match[1] == b"-" else time


def xattrs(records: dict[bytes, bytes], limits: Limits, *, libarchive: bool = True) -> dict[bytes, bytes]:
    """Return the extended attributes: star's form (binary), else libarchive's (name URL-encoded, value base64).

    Without `libarchive`, only those in star's form.

    Raises:
        LimitError: Names and values have more bytes than `limits` allow.
    """
    found = {
        unquote_to_bytes(key[17:]): _base64(value)
        for key, value in records.items()
        if libarchive and key.startswith(b"LIBARCHIVE.xattr.")
    }
    found |= {key[13:]: value for key, value in records.items() if key.startswith(b"SCHILY.xattr.")}
    if any(not 0 < len(name) <= NAME_MAX or b"\0" in name for name in found):
        raise InvalidImageError(f"an extended attribute whose name is not 1..{NAME_MAX} bytes without NUL")
    total = sum(len(name) + len(value) for name, value in found.items())
    if total > limits.xattrs:
        raise limits.passed("xattrs", f"{total} bytes of extended attributes")
    return found


def _base64(value: bytes) -> bytes:
    try:
        return binascii.a2b_base64(value + b"=" * (-len(value) % 4), strict_mode=True)
    except binascii.Error:
        raise InvalidImageError("the value of an extended attribute is not base64") from None
