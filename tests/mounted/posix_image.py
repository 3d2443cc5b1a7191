"""An image with one of everything that POSIX has, as tar bytes, and what a mount of it must show."""

import random
import struct
from pathlib import Path

from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, hardlink, header, long_name, padded, pax, symlink, tar

LONGEST_NAME = b"n" * 255
LATIN_NAME = b"caf\xe9"
LONGEST_TARGET = b"t/" * 2047 + b"t"
NEWLINE_NAME = b"two\nlines\x1b[31m"

BIG = random.Random(1).randbytes((5 << 20) + 123)
"""Longer than several spans, and nothing that compresses."""

WIDE = 5000
"""Entries in the directory `wide`."""

HOLE = 1 << 20
SPARSE = bytes(HOLE) + b"middle".ljust(512, b"\0") + bytes(HOLE) + b"end"

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
"""cap_net_raw=ep, as capabilities(7) has it (VFS_CAP_REVISION_2)."""

ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in [(1, 6, 2**32 - 1), (2, 4, 4711), (4, 4, 2**32 - 1), (16, 4, 2**32 - 1), (32, 0, 2**32 - 1)]
)
"""user::rw-, user:4711:r--, group::r--, mask::r--, other::---; acl_to_xattr format."""

_SPARSE_MAP = b"2\n%d\n512\n%d\n3\n" % (HOLE, 2 * HOLE + 512)


def image(directory_: Path, *, wide: bool = True) -> Path:
    """Write the image, of three layers with all compressions; the directory `wide` may be left out."""
    layers = [Layer(tar(_BASE), "gzip"), Layer(tar(_MIDDLE), "zstd"), Layer(tar(_TOP if wide else ()), "tar")]
    return write_layout(directory_, Image(layers=tuple(layers)))


_BASE = [
    directory(b"./", mode=0o755, mtime=1_000_000_000),
    directory(b"dir/", mode=0o750, uid=1000, gid=1001),
    file(b"dir/inside", b"inside"),
    file(b"regular", b"regular file\n", mode=0o640, uid=1000, gid=1001, mtime=1_500_000_000),
    file(b"empty"),
    file(b"open", b"for all", mode=0o644),
    file(b"secret", b"for root", mode=0o600),
    file(b"setuid", b"#!/bin/true\n", mode=0o4755),
    directory(b"sticky/", mode=0o1777),
    file(b"script", b'#!/bin/sh\necho ran "$@"\n', mode=0o755),
    file(b"not-executable", b"#!/bin/sh\n", mode=0o644),
    symlink(b"link", b"regular"),
    symlink(b"dangling", b"no/where"),
    symlink(b"absolute", b"/regular"),
    long_name(LONGEST_TARGET, b"K") + symlink(b"long-link", b"t"),
    hardlink(b"again", b"regular"),
    header(b"null", flag=b"3", mode=0o666, major=1, minor=3),
    header(b"disk", flag=b"4", mode=0o660, gid=6, major=7, minor=300),
    header(b"fifo", flag=b"6", mode=0o666),
    pax({b"mtime": b"1234567890.123456789"}) + file(b"nanoseconds"),
    pax({b"mtime": b"-14182940.876543211"}) + file(b"before-epoch"),
    long_name(LONGEST_NAME) + file(b"n", b"long"),
    file(LATIN_NAME, b"latin"),
    file(NEWLINE_NAME, b"newline"),
    file(b"big", BIG),
    file(b"lower", b"hidden by the next layer"),
]
_XATTRS = {
    b"SCHILY.xattr.user.note": b"a note",
    b"SCHILY.xattr.user.empty": b"",
    b"SCHILY.xattr.user.binary": bytes(range(256)),
    b"SCHILY.xattr.security.capability": CAPABILITY,
    b"SCHILY.xattr.trusted.mine": b"trusted",
    b"SCHILY.xattr.trusted.overlay.opaque": b"y",
    b"SCHILY.xattr.security.selinux": b"label",
}
_MIDDLE = [
    file(b".wh.lower"),
    hardlink(b"third", b"regular"),
    pax(_XATTRS) + file(b"attributed", b"with xattrs", mode=0o755),
    pax({b"SCHILY.xattr.user.on": b"directory"}) + directory(b"attributed-dir/"),
    pax({b"SCHILY.xattr.trusted.on": b"link"}) + symlink(b"attributed-link", b"regular"),
    pax({b"SCHILY.xattr.system.posix_acl_access": ACL}) + file(b"acl", b"acl", mode=0o640),
    pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"%d" % len(SPARSE)})
    + file(b"sparse", padded(_SPARSE_MAP) + SPARSE[HOLE : HOLE + 512] + b"end"),
]
_TOP = [directory(b"wide/"), *(file(b"wide/%05d" % number) for number in range(WIDE))]
