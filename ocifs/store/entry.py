"""One file of the cache: the payload and a footer, with its name; reading it only if it is valid.

The footer has kind, format version, subject, length and checksum of the payload. A sealed kind is read as a verified
copy in memory. This module does not know in which directory the files are.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import re
import struct
import time
from typing import NamedTuple

from zlib_ng import zlib_ng

from ocifs.errors import InvalidImageError, LimitError, raise_if_short
from ocifs.reader import FileReader
from ocifs.trusted_directory import TrustedDirectory

_CHECK_SIZE = 1 << 20

_MFD_NOEXEC_SEAL = 0x8  # linux/memfd.h
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

# kind, format version, subject, payload length, crc32 of the payload; then its own crc32.
_FOOTER = struct.Struct("<16sI144sQI")
_FOOTER_CRC = struct.Struct("<I")
_FOOTER_SIZE = _FOOTER.size + _FOOTER_CRC.size

NAME = re.compile(r"[a-z][a-z-]*\d+-(?:[a-z0-9]+-)+[0-9a-f]{64,128}(?:-\d+)?(?:\.tmp)?")
"""Names of files in the store: kind and version, algorithm and hex digits of the subject, the claimed size."""

SPARED = frozenset({"refuted"})
"""Names of the kinds that eviction spares: small notes, of which their writers keep few."""


class Kind(NamedTuple):
    """A type of entry. Each format version has its own entries, so two versions of ocifs can share the cache."""

    name: str
    version: int
    checked: bool = True
    """Whether the store verifies the payload when it opens an entry; if not, the reader verifies it by its digest."""
    begun: str = ""
    """Name of the partial entry that a failed builder leaves for the next one to continue; it counts as an entry. Only
    for kinds that are not checked."""
    sealed: bool = False
    """Whether to open an entry as a verified copy in memory that nothing can change, for readers that do not verify it
    again. Only for kinds that are checked."""


class StoredFile(FileReader):
    """The payload of an entry, open for reading until `close`, even if its name changes or disappears.

    Its mtime is the time of its creation, its atime that of its last use. A sealed kind is a copy in memory.
    """

    def map(self) -> mmap.mmap:
        """Map the payload of a sealed kind; a lost page of another kind, on disk, would cause SIGBUS.

        Raises InvalidImageError if the payload is empty.
        """
        if not self.size:
            raise InvalidImageError("a cache entry is empty: run `ocifs cache clear`")
        return mmap.mmap(self.fd, self.size, prot=mmap.PROT_READ)

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)


def file_name(kind: Kind, subject: str) -> str:
    """Return the name of an entry's file. Raises ValueError for a subject that is not a digest."""
    name = f"{kind.name}{kind.version}-{subject.replace(':', '-')}"
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a valid name of an entry")
    return name


def is_spared(name: str) -> bool:
    """Whether eviction spares the file of an entry."""
    return name.partition("-")[0].rstrip("0123456789") in SPARED


def sized(subject: str, size: int) -> str:
    """Return the subject of a partial file: the subject of the complete one, and the size that the caller expects."""
    return f"{subject}-{size}"


def footer(kind: Kind, subject: str, size: int, crc: int) -> bytes:
    """Return the footer of a payload of `size` bytes with the CRC-32 `crc`."""
    fields = _FOOTER.pack(f"ocifs {kind.name}".encode(), kind.version, subject.encode(), size, crc)
    return fields + _FOOTER_CRC.pack(zlib_ng.crc32(fields))


def open_checked(entries: TrustedDirectory, name: str, kind: Kind, subject: str) -> StoredFile | None:
    """Open an entry if it is valid; mark it as used."""
    try:
        fd = entries.open_file(name, os.O_RDONLY)
    except OSError as error:
        raise_if_short(error)
        return None
    file = None
    try:
        file = checked(fd, kind, subject)
    finally:
        if file is None or file.fd != fd:
            os.close(fd)
    return file


def checked(fd: int, kind: Kind, subject: str) -> StoredFile | None:
    """Return the entry in an open file, with this descriptor or, for a sealed kind, with that of a copy in memory.

    Raises LimitError if there is no room in memory for a copy.
    """
    with contextlib.ExitStack() as undo:
        try:
            status = os.fstat(fd)
            size = status.st_size - _FOOTER_SIZE
            stored = os.pread(fd, _FOOTER_SIZE, size) if size >= 0 else b""
            if not stored or stored != footer(kind, subject, size, _stated_crc(stored)):
                return None
            copy = _sealable() if kind.sealed else None
            if copy is not None:
                undo.callback(os.close, copy)
            if kind.checked and _crc(fd, size, copy) != _stated_crc(stored):
                return None
        except OSError:  # treat a read error like a wrong checksum
            return None
        with contextlib.suppress(OSError):
            os.utime(fd, ns=(time.time_ns(), status.st_mtime_ns))
        if copy is not None:
            fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
        undo.pop_all()
    return StoredFile(fd if copy is None else copy, 0, size)


def _stated_crc(footer: bytes) -> int:
    return int.from_bytes(footer[-2 * _FOOTER_CRC.size : -_FOOTER_CRC.size], "little")


def _crc(fd: int, size: int, copy: int | None) -> int:
    """Return the CRC of a payload; append exactly the bytes that it covers to the file `copy`."""
    crc = 0
    for offset in range(0, size, _CHECK_SIZE):
        data = os.pread(fd, min(_CHECK_SIZE, size - offset), offset)
        crc = zlib_ng.crc32(data, crc)
        if copy is not None:
            _append(copy, data)
    return crc


def _sealable() -> int:
    """Return a sealable file in memory. Raises LimitError."""
    try:
        return os.memfd_create("ocifs", os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise _no_room(error) from None
    try:
        return os.memfd_create("ocifs", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)  # before Linux 6.3
    except OSError as error:
        raise _no_room(error) from None


def _append(memory: int, data: bytes) -> None:
    """Append to a file in memory. Raises LimitError."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(memory, view) :]
    except OSError as error:
        raise _no_room(error) from None


def _no_room(error: OSError) -> LimitError:
    raise_if_short(error)
    return LimitError(
        f"cache: cannot copy an entry into memory: {error.strerror}: allow more memory or larger files (ulimit -f)"
    )
