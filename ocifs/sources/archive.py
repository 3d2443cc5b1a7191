"""A tar file whose members are read in place, also if it is compressed as a whole.

Nothing is unpacked: a member is a section of the file, or of its uncompressed content. Names are normalized, and links
are followed inside the archive.
A member that occurs several times must have the same bytes each time; otherwise two programs could each read another
one. Of members below `blobs/`, which are named by their digests, the last one counts. It does not know what the members
mean.
"""

import hashlib
import os
import posixpath
import shlex
import stat
from collections.abc import Callable, Iterable, KeysView
from contextlib import ExitStack
from typing import Protocol, Self

from ocifs.errors import (
    InvalidImageError,
    LimitError,
    NotFoundError,
    OcifsError,
    RegistryError,
    UnsupportedError,
    printable,
    printable_path,
)
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.reader import BlobReader, FileReader, ReaderAt
from ocifs.sources.magic import HEAD, compression_of, format_of
from ocifs.spec.digest import Digest
from ocifs.spec.document import shown
from ocifs.toc import HARDLINK, REGULAR, SYMLINK, Entry, ReaderForward, scan

_LINK_DEPTH = 8
_CHUNK = 1 << 20


class TarContent(Protocol):
    """The uncompressed tar of an archive."""

    def entries(self) -> Iterable[Entry]:
        """Return the headers of the members, in order."""
        ...

    def section(self, offset: int, size: int) -> BlobReader:
        """Return a part of it."""
        ...

    def close(self) -> None:
        """Close its files."""
        ...


Decompress = Callable[[FileReader, str], TarContent]
"""Opens a file that is compressed with gzip or zstd, under a name for errors; the result owns the descriptor."""


class _Tar:
    """An uncompressed tar file."""

    def __init__(self, file: FileReader, name: str, limits: Limits) -> None:
        self._file = file
        self._name = name
        self._limits = limits

    def entries(self) -> list[Entry]:
        return scan_members(self._file, self._name, self._limits)

    def section(self, offset: int, size: int) -> FileReader:
        return FileReader(self._file.fd, offset, size)

    def close(self) -> None:
        os.close(self._file.fd)


def scan_members(file: ReaderAt, name: str, limits: Limits) -> list[Entry]:
    """Return the headers of the members of an uncompressed tar; `name` is for errors.

    Raises:
        InvalidImageError: It is not a tar file, or is damaged.
        LimitError: It has more members than `limits` allow.
    """
    try:
        return scan(ReaderForward(file), limits=limits, count="members", warn=_ignore)
    except RegistryError:
        raise
    except OcifsError as error:
        if isinstance(error, InvalidImageError) and (found := format_of(file.pread(HEAD, 0))):
            raise InvalidImageError(f"{name} is not a usable archive: it is {found}") from error
        raise type(error)(f"{name} is not a usable archive: {error}") from error


def no_random_access(name: str, compression: str) -> UnsupportedError:
    """Return the error for an archive that is compressed in another way than with gzip or zstd."""
    return UnsupportedError(
        f"{name} is compressed with {compression}, which has no random access: decompress it with "
        f"`{compression} -dk {shlex.quote(name)}`"
    )


class Archive:
    """An open tar file."""

    def __init__(self, content: TarContent, name: str, *, is_compressed: bool = False) -> None:
        self.name = name
        """Name in errors."""
        self.is_compressed = is_compressed
        self._content = content
        self._members: dict[bytes, list[Entry]] = {}
        for entry in content.entries():
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
    def at(cls, path: str, limits: Limits = DEFAULT_LIMITS, decompress: Decompress | None = None) -> Self:
        """Open the tar file at `path` and read its headers; `decompress` opens one that is compressed.

        Raises:
            NotFoundError: It cannot be opened.
            UnsupportedError: It is compressed and cannot be read in place, or is not a regular file.
            InvalidImageError: It is not a tar file, or is damaged.
        """
        name = printable_path(path)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise NotFoundError(f"cannot open {name}: {error.strerror}") from error
        return cls.of(fd, name, limits, decompress)

    @classmethod
    def of(cls, fd: int, name: str, limits: Limits = DEFAULT_LIMITS, decompress: Decompress | None = None) -> Self:
        """Open the tar file `fd`, which it closes; otherwise as `at`."""
        with ExitStack() as undo:
            undo.callback(os.close, fd)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UnsupportedError(
                    f"{name} is not a regular file: save the archive to one, because it is read in place"
                )
            file = FileReader(fd)
            undo.pop_all()
        return cls.within(file, name, limits, decompress)

    @classmethod
    def within(
        cls, file: FileReader, name: str, limits: Limits = DEFAULT_LIMITS, decompress: Decompress | None = None
    ) -> Self:
        """Open the tar in a section of a file from its beginning, whose descriptor it closes; otherwise as `at`."""
        with ExitStack() as undo:
            undo.callback(os.close, file.fd)
            compression = compression_of(file.pread(HEAD, 0))
            content: TarContent = _Tar(file, name, limits)
            if compression in ("gzip", "zstd") and decompress is not None:
                content = decompress(file, name)
            elif compression != "tar":
                raise no_random_access(name, compression)
            undo.pop_all()  # the content owns the descriptor
            undo.callback(content.close)
            archive = cls(content, name, is_compressed=compression != "tar")
            undo.pop_all()
            return archive

    def __contains__(self, path: str) -> bool:
        return path.encode() in self._members

    def names(self) -> KeysView[bytes]:
        """Return the names of all members."""
        return self._members.keys()

    def open(self, path: str) -> BlobReader:
        """Return the member at `path` as a blob; `path` may come from a document.

        Raises:
            NotFoundError: There is no such member.
            InvalidImageError: It occurs twice with different bytes, or is not a file.
            LimitError: More than 8 links lead to it.
        """
        file = self._file(_clean(path.encode()), f"member {shown(path)} of {self.name}", _LINK_DEPTH)
        return self._content.section(file.offset, file.size)

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
            and len({self.sha256(self._content.section(file.offset, file.size)) for file in distinct}) == 1
        )

    def sha256(self, member: BlobReader) -> Digest:
        """Return the digest of a member; it is computed once for each offset."""
        if member.offset not in self._digests:
            hasher = hashlib.sha256()
            for offset in range(0, member.size, _CHUNK):
                hasher.update(member.pread(_CHUNK, offset))
            self._digests[member.offset] = Digest(f"sha256:{hasher.hexdigest()}")
        return self._digests[member.offset]

    def close(self) -> None:
        """Close the file."""
        self._content.close()


def _ignore(_warning: str) -> None:
    """Drop warnings about attributes of members, which are not extracted."""


def _clean(path: bytes) -> bytes:
    return posixpath.normpath(path).lstrip(b"/")
