"""A tar file whose members are read in place.

Nothing is unpacked: a member is a section of the file. Names are normalized, and links are followed inside the archive.
A member that occurs several times must have the same bytes each time; otherwise two programs could each read another
one. Of members below `blobs/`, which are named by their digests, the last one counts. It does not know what the members
mean.
"""

import hashlib
import os
import posixpath
import stat
from collections.abc import Iterable, KeysView
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
from ocifs.spec.digest import Digest
from ocifs.spec.document import shown
from ocifs.toc import HARDLINK, REGULAR, SYMLINK, Entry, ReaderForward, scan

_LINK_DEPTH = 8
_CHUNK = 1 << 20


class Archive:
    """An open tar file."""

    def __init__(self, fd: int, name: str, entries: Iterable[Entry]) -> None:
        self.name = name
        """Name in errors."""
        self._fd = fd
        self._members: dict[bytes, list[Entry]] = {}
        for entry in entries:
            path = _clean(entry.path)
            if path.startswith(b"blobs/"):
                self._members[path] = [entry]
            else:
                self._members.setdefault(path, []).append(entry)
        self._files: dict[bytes, Entry] = {}
        """Members resolved so far, links followed."""
        self._digests: dict[int, Digest] = {}
        """sha256 digests by offset: each file is read once, however many members lead to it."""

    @classmethod
    def at(cls, path: str, limits: Limits = DEFAULT_LIMITS) -> Self:
        """Open the tar file at `path` and read its headers.

        Raises:
            NotFoundError: It cannot be opened.
            UnsupportedError: It is compressed, or is not a regular file.
            InvalidImageError: It is not a tar file, or is damaged.
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

    def names(self) -> KeysView[bytes]:
        """Return the names of all members."""
        return self._members.keys()

    def open(self, path: str) -> FileReader:
        """Return the member at `path` as a blob; `path` may come from a document.

        Raises:
            NotFoundError: There is no such member.
            InvalidImageError: It occurs twice with different bytes, or is not a file.
            LimitError: More than 8 links lead to it.
        """
        file = self._file(_clean(path.encode()), f"member {shown(path)} of {self.name}", _LINK_DEPTH)
        return FileReader(self._fd, file.offset, file.size)

    def _file(self, member: bytes, name: str, links: int) -> Entry:
        """Return the file that a member is, or leads to through at most `links` links; raises as `open`."""
        if (known := self._files.get(member)) is not None:
            return known
        if member not in self._members:
            raise NotFoundError(f"{self.name} has no member {printable(member)}")
        found = [self._target(member, entry, name, links) for entry in self._members[member]]
        if not self._same(found):
            raise InvalidImageError(f"{name} occurs twice with different bytes: write the archive again")
        self._files[member] = found[-1]
        return found[-1]

    def _target(self, member: bytes, entry: Entry, name: str, links: int) -> Entry:
        if entry.kind == REGULAR and entry.sparse is None:
            return entry
        if entry.kind not in (SYMLINK, HARDLINK):
            raise InvalidImageError(f"{name} is not a plain file")
        if not links:
            raise LimitError(f"{name} is behind more than {_LINK_DEPTH} links")
        directory = posixpath.dirname(member) if entry.kind == SYMLINK else b""
        return self._file(_clean(posixpath.join(directory, entry.linkname)), name, links - 1)

    def _same(self, files: list[Entry]) -> bool:
        """Return whether all files have the same bytes."""
        distinct = {file.offset: file for file in files}.values()
        return len(distinct) == 1 or (
            len({file.size for file in distinct}) == 1
            and len({self.sha256(FileReader(self._fd, file.offset, file.size)) for file in distinct}) == 1
        )

    def sha256(self, member: FileReader) -> Digest:
        """Return the digest of a member; it is computed once for each offset."""
        if member.offset not in self._digests:
            hasher = hashlib.sha256()
            for offset in range(0, member.size, _CHUNK):
                hasher.update(member.pread(_CHUNK, offset))
            self._digests[member.offset] = Digest(f"sha256:{hasher.hexdigest()}")
        return self._digests[member.offset]

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def _scan(fd: int, name: str, limits: Limits) -> list[Entry]:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise UnsupportedError(f"{name} is not a regular file: save the archive to one, because it is read in place")
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
    """Drop warnings about attributes of members, which are not extracted."""


def _clean(path: bytes) -> bytes:
    return posixpath.normpath(path).lstrip(b"/")
