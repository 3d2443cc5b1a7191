"""Tar bytes from literals: every field of every header at hand, the broken ones too.

`header` makes one block; `file`, `directory`, ... make whole members; `tar` makes an archive of members.
"""

from collections.abc import Iterable, Mapping

USTAR = b"ustar\x0000"
GNU = b"ustar  \0"
V7 = bytes(8)

_FIELDS = {
    "name": (0, 100),
    "mode": (100, 8),
    "uid": (108, 8),
    "gid": (116, 8),
    "size": (124, 12),
    "mtime": (136, 12),
    "checksum": (148, 8),
    "flag": (156, 1),
    "link": (157, 100),
    "magic": (257, 8),
    "major": (329, 8),
    "minor": (337, 8),
    "prefix": (345, 155),
    "sparse": (386, 97),
    "realsize": (483, 12),
    "tail": (500, 12),
}
_DEFAULTS: dict[str, int | bytes] = {"mode": 0o644, "uid": 0, "gid": 0, "mtime": 0, "flag": b"0", "magic": USTAR}


def header(name: bytes = b"", size: int | bytes = 0, **fields: int | bytes) -> bytes:
    """Return one header block: bytes as they are, numbers in octal, the checksum right unless it is given."""
    block = bytearray(512)
    for field, value in {**_DEFAULTS, "name": name, "size": size, **fields}.items():
        offset, width = _FIELDS[field]
        data = value if isinstance(value, bytes) else b"%0*o\0" % (width - 1, value)
        assert len(data) <= width, field
        block[offset : offset + len(data)] = data
    if "checksum" not in fields:
        block[148:156] = b"        "
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def base256(number: int, width: int) -> bytes:
    """Return a number as GNU tar writes it when octal digits do not suffice."""
    data = bytearray(number.to_bytes(width, "big", signed=True))
    data[0] |= 0x80
    return bytes(data)


def file(name: bytes, data: bytes = b"", **fields: int | bytes) -> bytes:
    return header(name, len(data), **fields) + padded(data)


def directory(name: bytes, mode: int = 0o755, **fields: int | bytes) -> bytes:
    return header(name, flag=b"5", mode=mode, **fields)


def symlink(name: bytes, target: bytes, **fields: int | bytes) -> bytes:
    return header(name, flag=b"2", link=target, mode=0o777, **fields)


def hardlink(name: bytes, target: bytes, **fields: int | bytes) -> bytes:
    return header(name, flag=b"1", link=target, **fields)


def pax(records: Mapping[bytes, bytes] | bytes, flag: bytes = b"x") -> bytes:
    """Return a pax header for the member that follows; `records` may be its raw data."""
    data = records if isinstance(records, bytes) else b"".join(record(*item) for item in records.items())
    return file(b"PaxHeaders/0", data, flag=flag)


def record(key: bytes, value: bytes) -> bytes:
    """Return one pax record, its length counting itself."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(b"%d" % length):
        length = len(rest) + len(b"%d" % length)
    return b"%d" % length + rest


def long_name(name: bytes, flag: bytes = b"L") -> bytes:
    """Return GNU's header with the name (K: the link name) of the member that follows."""
    return file(b"././@LongLink", name + b"\0", flag=flag, magic=GNU)


def tar(members: Iterable[bytes]) -> bytes:
    """Return the archive of `members`, ended by two zero blocks."""
    return b"".join(members) + bytes(1024)
