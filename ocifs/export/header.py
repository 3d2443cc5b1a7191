"""Headers of a tar member: the ustar block, and before it a pax header for values that do not fit.

POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header". Extended attributes use star's keywords
(`SCHILY.xattr.`), or libarchive's (`LIBARCHIVE.xattr.`) for names with bytes on which readers of the former disagree.
Names are never recoded. Owners are numbers only.
"""

import os
from base64 import b64encode
from collections.abc import Mapping
from struct import Struct
from typing import NamedTuple
from urllib.parse import quote_from_bytes

BLOCK = 512
REGULAR, HARDLINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"

_USTAR = Struct("<100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x")
_CHECKSUM = 148
_NAME_MAX = 100
_ID_MAX = 0o7777777
_NUMBER_MAX = 0o77777777777
_ODD = frozenset(b"=%")
"""Special characters in the name of an extended attribute: pax ends a keyword at `=`, and GNU tar uses `%` as an
escape."""


class Header(NamedTuple):
    """The header values of a member, except extended attributes."""

    path: bytes
    flag: bytes
    """REGULAR .. FIFO."""
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    """Bytes of data that follow."""
    link: bytes = b""
    rdev: int = 0


def encode(header: Header, records: Mapping[bytes, bytes], xattrs: Mapping[bytes, bytes]) -> bytes:
    """Return the header blocks of a member; `records` are additional records of the pax header."""
    seconds, nanoseconds = divmod(header.mtime_ns, 10**9)
    pax: dict[bytes, bytes] = {}
    for key, name in ((b"path", header.path), (b"linkpath", header.link)):
        if len(name) > _NAME_MAX:
            pax[key] = name
    for key, number, most in (
        (b"size", header.size, _NUMBER_MAX),
        (b"uid", header.uid, _ID_MAX),
        (b"gid", header.gid, _ID_MAX),
    ):
        if number > most:
            pax[key] = b"%d" % number
    if nanoseconds or not 0 <= seconds <= _NUMBER_MAX:
        pax[b"mtime"] = _time(header.mtime_ns)
    pax |= records
    for key, value in sorted(xattrs.items()):
        if _ODD.isdisjoint(key):
            pax[b"SCHILY.xattr." + key] = value
        else:
            pax[b"LIBARCHIVE.xattr." + quote_from_bytes(key).encode()] = b64encode(value)
    block = _ustar(header, min(max(seconds, 0), _NUMBER_MAX))
    if not pax:
        return block
    data = b"".join(_record(key, value) for key, value in pax.items())
    return _ustar(Header(b"PaxHeaders/0", b"x", 0o644, 0, 0, 0, len(data)), 0) + padded(data) + block


def padded(data: bytes) -> bytes:
    """Return data padded to a whole block."""
    return data + bytes(-len(data) % BLOCK)


def _ustar(header: Header, seconds: int) -> bytes:
    """Return the ustar block; values that do not fit are truncated, or 0."""
    block = bytearray(
        _USTAR.pack(
            header.path,
            b"%07o" % header.mode,
            b"%07o" % (header.uid if header.uid <= _ID_MAX else 0),
            b"%07o" % (header.gid if header.gid <= _ID_MAX else 0),
            b"%011o" % (header.size if header.size <= _NUMBER_MAX else 0),
            b"%011o" % seconds,
            b" " * 8,
            header.flag,
            header.link,
            b"ustar\x0000",
            b"",
            b"",
            b"%07o" % os.major(header.rdev),
            b"%07o" % os.minor(header.rdev),
            b"",
        )
    )
    block[_CHECKSUM : _CHECKSUM + 7] = b"%06o\0" % sum(block)
    return bytes(block)


def _time(nanoseconds: int) -> bytes:
    """Return a time in pax form: seconds with a fraction, of either sign."""
    seconds, fraction = divmod(abs(nanoseconds), 10**9)
    digits = (b"%d.%09d" % (seconds, fraction)).rstrip(b"0").rstrip(b".")
    return b"-" + digits if nanoseconds < 0 else digits


def _record(key: bytes, value: bytes) -> bytes:
    """Return LENGTH, a space, KEY=VALUE and a newline; LENGTH counts itself."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while length != len(rest) + len(b"%d" % length):
        length += 1
    return b"%d" % length + rest
