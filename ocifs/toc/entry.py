"""An entry of a TOC: one member of a layer's tar."""

import msgspec

REGULAR, HARDLINK, SYMLINK, CHARACTER, BLOCK, DIRECTORY, FIFO = range(7)


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One member of a layer's tar, from its headers: names raw, numbers checked, nothing resolved."""

    kind: int
    """One of REGULAR .. FIFO."""
    path: bytes
    """The name as stored: it may be absolute, contain `..`, or end in `/`."""
    mode: int
    """Permission bits with setuid, setgid and sticky: 0..0o7777."""
    uid: int
    gid: int
    mtime_ns: int
    """Nanoseconds since the epoch; may be negative."""
    size: int = 0
    """Logical size of a regular file; 0 for other kinds."""
    offset: int = 0
    """Of a regular file: offset of its stored bytes in the uncompressed tar stream; a multiple of 512."""
    stored: int = 0
    """Of a regular file: bytes stored there; differs from `size` only if it is sparse."""
    linkname: bytes = b""
    """Target of a symlink or hard link, as stored."""
    rdev: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = {}
    sparse: tuple[tuple[int, int], ...] | None = None
    """(offset in the file, length) of each stored piece in stored order; None if the file is not sparse."""


ENTRIES = msgspec.msgpack.Decoder(list[Entry])
ENTRY = msgspec.msgpack.Decoder(Entry)
"""Created at import: msgspec crashes if two threads use a type for the first time at once."""
