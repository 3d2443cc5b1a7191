"""A tar file whose members are read in place.

Nothing is unpacked: a member is a piece of the file. Names are cleaned, links are followed inside the archive, and a
member that occurs twice is refused, because two programs would each see another one of them; of blobs, which are
named by their digests, the last one stands. What the members mean is for the caller.
"""

import os
import posixpath
import stat
from collections.abc import Iterable
from typing import Self

from ocifs.errors import (
    InvalidImageError,
    LimitError,
    NotFoundError,
    OcifsError,
    UnsupportedError,
    printable,
    printable_path,
)
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.reader import FileReader
from ocifs.sources.magic import HEAD, compression_of, format_of
from ocifs.spec.document import shown
from ocifs.toc import HARDLINK, REGULAR, SYMLINK, Entry, ReaderForward, scan

_LINK_DEPTH = 8


class Archive:
    """An open tar file."""

    def __init__(self, fd: int, name: str, entries: Iterable[Entry]) -> None:
        self.name = name
        """What errors call it."""
        self._fd = fd
        self._members: dict[bytes, Entry] = {}
        self._twice: set[bytes] = set()
        for entry in entries:
            path = _clean(entry.path)
            if path in self._members and not path.startswith(b"blobs/"):
                self._twice.add(path)
            self._members[path] = entry

    @classmethod
    def at(cls, path: str, limits: Limits = DEFAULT_LIMITS) -> Self:
        """Open the tar file at `path` and read its headers.

        Raises:
            NotFoundError: It cannot be opened.
            UnsupportedError: It is compressed, or cannot be read in place.
            InvalidImageError: It is no tar file, or a damaged one.
        """
        name = printable_path(path)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise NotFoundError(f"cannot open {name}: {error.strerror}") from error
        try:
            return cls(fd, name, _scan(fd, name, limits))
        except OcifsError:
            os.close(fd)
            raise

    def __contains__(self, path: str) -> bool:
        return path.encode() in self._members

    def open(self, path: str) -> FileReader:
        """Return the member at `path`, which may come from a document, as a blob.

        Raises:
            NotFoundError: There is no such member.
            InvalidImageError: It occurs twice, or is no file.
            LimitError: It is a link to a link to a link and so on.
        """
        name = f"member {shown(path)} of {self.name}"
        member = _clean(path.encode())
        for _ in range(_LINK_DEPTH + 1):
            entry = self._members.get(member)
            if entry is None:
                raise NotFoundError(f"{self.name} has no member {printable(member)}")
            if member in self._twice:
                raise InvalidImageError(f"{name} occurs twice: write the archive again")
            if entry.kind == REGULAR and entry.sparse is None:
                return FileReader(self._fd, entry.offset, entry.size)
            if entry.kind == SYMLINK:
                member = _clean(posixpath.join(posixpath.dirname(member), entry.linkname))
            elif entry.kind == HARDLINK:
                member = _clean(entry.linkname)
            else:
                raise InvalidImageError(f"{name} is not a plain file")
        raise LimitError(f"{name} is behind more than {_LINK_DEPTH} links")

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def _scan(fd: int, name: str, limits: Limits) -> list[Entry]:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise UnsupportedError(f"{name} is not a regular file, and only in one can an archive be read in place")
    reader = FileReader(fd)
    head = reader.pread(HEAD, 0)
    if (compression := compression_of(head)) != "tar":
        raise UnsupportedError(
            f"{name} is compressed with {compression}: archives are read in place, so decompress it first"
        )
    try:
        return scan(ReaderForward(reader), limits=limits, count="members", warn=_ignore)
    except OcifsError as error:
        if isinstance(error, InvalidImageError) and (found := format_of(head)):
            raise InvalidImageError(f"{name} is not a usable archive: it is {found}") from error
        raise type(error)(f"{name} is not a usable archive: {error}") from error


def _ignore(_warning: str) -> None:
    """Drop warnings on attributes of members; the members are not made into files."""


def _clean(path: bytes) -> bytes:
    return posixpath.normpath(path).lstrip(b"/")
