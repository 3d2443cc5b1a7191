"""Read the entries of a tar stream: the one loop over header blocks.

It decides which header takes precedence for an entry (GNU long name, pax record, header block) and enforces the limits
of a layer. `field`, `pax` and `sparse` parse the fields.
"""

from collections.abc import Callable, Iterator
from struct import Struct
from typing import Literal

from ocifs.errors import InvalidImageError, OcifsError, printable
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.toc import field, pax, sparse
from ocifs.toc.entry import BLOCK, CHARACTER, DIRECTORY, FIFO, HARDLINK, REGULAR, SYMLINK, Entry
from ocifs.toc.forward import Forward, read_exactly

_KINDS = {
    b"0": REGULAR,
    b"\0": REGULAR,  # v7
    b"7": REGULAR,  # contiguous
    b"S": REGULAR,  # GNU sparse
    b"1": HARDLINK,
    b"2": SYMLINK,
    b"3": CHARACTER,
    b"4": BLOCK,
    b"5": DIRECTORY,
    b"6": FIFO,
}
_EXTENDED = frozenset((b"x", b"g", b"L", b"K"))
_FOREIGN = {
    b"D": " (directory of a GNU incremental backup)",
    b"M": " (continuation of a file from another volume)",
    b"N": " (long names of old GNU tar)",
    b"V": " (volume label)",
}
"""Types that GNU tar writes and container tools refuse."""

# name, mode, uid, gid, size, mtime, (checksum), type, linkname, magic, (names of owner and group), devmajor,
# devminor, prefix, tail
_HEADER = Struct("100s8s8s8s12s12s8xc100s8s64x8s8s155s12s")
_ZERO = bytes(512)


def scan(
    stream: Forward,
    *,
    limits: Limits = DEFAULT_LIMITS,
    count: Literal["entries", "members"] = "entries",
    warn: Callable[[str], None],
    libarchive: bool = True,
) -> list[Entry]:
    """Return the entries that `read_entries` yields."""
    return list(read_entries(stream, limits=limits, count=count, warn=warn, libarchive=libarchive))


def read_entries(
    stream: Forward,
    *,
    limits: Limits = DEFAULT_LIMITS,
    count: Literal["entries", "members"] = "entries",
    warn: Callable[[str], None],
    libarchive: bool = True,
) -> Iterator[Entry]:
    """Yield the entries of a tar stream in order, up to the end of the archive.

    The archive ends at two zero blocks, or if the stream ends before a header. The bytes after it stay unread; a caller
    that hashes the stream must drain it. Without `libarchive`, skip extended attributes that only libarchive's records
    hold, like Go's archive/tar.

    Raises:
        InvalidImageError: The stream is not a tar archive, is truncated, or an entry has an invalid value.
        UnsupportedError: An entry has a type or form that Go's archive/tar does not know either.
        LimitError: The stream exceeds one of `limits`; `count` names the limit on the number of entries.
    """
    limit: int = getattr(limits, count)
    for number, (entry, _) in enumerate(members(stream, limits=limits, warn=warn, libarchive=libarchive)):
        if number == limit:
            raise limits.passed(count, f"more than {limit} tar entries")
        yield entry


def members(
    stream: Forward, *, limits: Limits = DEFAULT_LIMITS, warn: Callable[[str], None], libarchive: bool = True
) -> Iterator[tuple[Entry, int]]:
    """Yield each entry, and the offset in the stream at which its headers end. Raises the errors of `scan`."""
    scanner = _Scanner(stream, limits, warn, libarchive=libarchive)
    while block := scanner.next_header():
        entry = scanner.next_entry(block)
        if entry is not None:
            yield entry, entry.offset or stream.offset


class _Scanner:
    """The state of one scan: extended headers of the next entry, and counts for the limits."""

    def __init__(self, stream: Forward, limits: Limits, warn: Callable[[str], None], *, libarchive: bool) -> None:
        self.stream = stream
        self.limits = limits
        self.warn = warn
        self.libarchive = libarchive
        self.pax: dict[bytes, bytes] = {}
        """Records of the pax header of the next entry."""
        self.long: dict[bytes, bytes] = {}
        """GNU long name and link name of the next entry, under pax's keys."""
        self.extended = 0
        self.pieces = 0

    def next_header(self) -> bytes:
        """Return the next header block; b"" at the end of the archive."""
        block = self.stream.read(512)
        if len(block) == 512 and block != _ZERO:
            return block
        start = self.stream.offset - len(block)
        if block == _ZERO:
            if self.stream.read(512) not in (b"", _ZERO):
                raise InvalidImageError(f"the tar stream has a single zero block, at byte {start}")
        elif block:
            raise InvalidImageError(f"the tar stream ends inside the header at byte {start}")
        if self.pax or self.long:
            self.warn(f"the tar stream ends at byte {start} after an extended header, which is ignored")
        return b""

    def next_entry(self, block: bytes) -> Entry | None:
        """Return the entry of header `block` and skip its data; None for an extended header or an empty name."""
        start = self.stream.offset - 512
        records: dict[bytes, bytes] = {}
        try:
            field.check_sum(block)
            flag = block[156:157]
            if flag in _EXTENDED:
                self._extend(flag, field.check_size(field.number(block[124:136])))
                return None
            records = self._records()
            entry = self._entry(block, records)
        except OcifsError as error:
            name = printable((records.get(b"path") or field.text(block[:100]))[: field.NAME_MAX])
            raise type(error)(f"tar entry '{name}' at byte {start}: {error}") from None
        if entry.path or entry.kind == DIRECTORY:
            return entry
        self.warn(f"tar entry '' at byte {start}: it has no name, but only a directory can be the root; skipped")
        return None

    def _extend(self, flag: bytes, size: int) -> None:
        """Parse an extended header of `size` bytes."""
        if size > self.limits.extended_header:
            raise self.limits.passed("extended_header", f"an extended header of {size} bytes")
        self.extended += size
        if self.extended > self.limits.extended_headers:
            raise self.limits.passed("extended_headers", f"{self.extended} bytes of extended headers in the layer")
        data = read_exactly(self.stream, size)
        self.stream.skip(-size % 512)
        if flag == b"x":
            self.pax = pax.parse(data)
        elif flag == b"g":
            # Go's archive/tar returns it as an entry, drops the headers before it, and applies its records to nothing;
            # containerd, podman and Docker ignore that entry.
            pax.parse(data)
            self.pax, self.long = {}, {}
        else:
            self.long[b"path" if flag == b"L" else b"linkpath"] = field.text(data)

    def _records(self) -> dict[bytes, bytes]:
        """Return the records of the current entry's extended headers; the header block replaces empty values."""
        if not (self.pax or self.long):
            return {}
        records = self.pax | {key: name for key, name in self.long.items() if name}
        self.pax, self.long = {}, {}
        return records

    def _entry(self, block: bytes, records: dict[bytes, bytes]) -> Entry:
        name, mode, uid, gid, size, mtime, flag, link, magic, major, minor, prefix, tail = _HEADER.unpack(block)
        kind = _KINDS.get(flag)
        if kind is None:
            raise field.unsupported_type(flag, _FOREIGN.get(flag, ""))
        path = records.get(b"path") or _header_path(name, prefix, magic, tail)
        if flag == b"\0" and path.endswith(b"/"):
            kind = DIRECTORY
        field.check_path(path)
        stored = field.check_size(pax.integer(records, b"size", size))
        user, group = pax.integer(records, b"uid", uid), pax.integer(records, b"gid", gid)
        field.check_owner(user, group)
        time = self._clamp(pax.mtime(records, mtime), path)
        bits = field.number(mode) & 0o7777
        xattrs = pax.xattrs(records, self.limits, libarchive=self.libarchive) if records else {}
        if kind == REGULAR:
            length, stored, pieces = sparse.layout(
                block, records, stored, self.stream, self.limits.sparse_pieces - self.pieces
            )
            self.pieces += len(pieces or ())
            offset = self.stream.offset
            self._skip(stored)
            return Entry(kind, path, bits, user, group, time, length, offset, stored, xattrs=xattrs, sparse=pieces)
        target, rdev = b"", (0, 0)
        if kind in (HARDLINK, SYMLINK):
            target = records.get(b"linkpath") or field.text(link)
            field.check_target(target)
        elif kind in (CHARACTER, BLOCK) and magic.startswith(b"ustar"):
            rdev = field.device(major, minor)
        return Entry(kind, path, bits, user, group, time, linkname=target, rdev=rdev, xattrs=xattrs)

    def _clamp(self, time: int, path: bytes) -> int:
        if -(2**63) <= time <= field.INT64_MAX:
            return time
        self.warn(f"tar entry '{printable(path)}': mtime {time // 10**9} s is out of range; clamped")
        return field.INT64_MAX if time > 0 else -(2**63)

    def _skip(self, stored: int) -> None:
        """Skip file data. Their padding may be missing at the end of the stream."""
        if self.stream.offset + stored > field.INT64_MAX:
            raise InvalidImageError(f"size {stored} is not possible")
        if self.stream.skip(stored + -stored % 512) < stored:
            raise InvalidImageError(f"the tar stream ends inside its {stored} bytes of data")


def _header_path(name: bytes, prefix: bytes, magic: bytes, tail: bytes) -> bytes:
    path = field.text(name)
    return field.prefix(prefix, magic, tail) + path if prefix[0] else path
