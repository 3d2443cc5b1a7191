"""The cache directory: files that can be made again, kept under the digest of what they were made from.

Entries are in `entries/`, which is a `TrustedDirectory`. The rule: what `get` returns is whole and what it claims to
be, or it is built. A file is written under a temporary name, fsynced, and renamed; its last bytes say kind, format
version, subject, length and checksum, and any doubt about them means building anew. Who builds holds a lock on the
temporary file, so two processes never build the same entry, and a builder that was killed leaves neither a lock nor a
file that the next one does not take over. What takes long to come the next builder may go on with where the last one
stopped. When the directory cannot be written the entry is kept in memory, with one warning. The store does not know
what the files hold.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

from zlib_ng import zlib_ng

from ocifs.errors import InvalidImageError, LimitError, StoreError, printable_path, raise_if_too_many_files
from ocifs.reader import FileReader
from ocifs.trusted_directory import TrustedDirectory, is_own_file

DEFAULT_MAX_SIZE = 10 << 30
"""Bytes that the directory may hold before the least recently used entries go."""

_CHECKED_AT_ONCE = 1 << 20

_MFD_NOEXEC_SEAL = 0x8  # linux/memfd.h
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

# kind, format version, subject, payload length, crc32 of the payload; then its own crc32.
_FOOTER = struct.Struct("<16sI144sQI")
_FOOTER_CRC = struct.Struct("<I")
_FOOTER_SIZE = _FOOTER.size + _FOOTER_CRC.size

_ENTRIES = "entries"
_TEMPORARY = ".tmp"
_NAME = re.compile(r"[a-z][a-z-]*\d+-(?:[a-z0-9]+-)+[0-9a-f]{64,128}(?:-\d+)?(?:\.tmp)?")
"""Names of files in the store: kind and version, algorithm and hex digits of the subject, the claimed size."""


def default_directory() -> Path:
    """Return where the cache is when nobody says otherwise: `$XDG_CACHE_HOME/ocifs`."""
    import platformdirs

    return platformdirs.user_cache_path("ocifs")


class Kind(NamedTuple):
    """A sort of entry. Another format version is another entry, so two versions of ocifs do not fight."""

    name: str
    version: int
    checked: bool = True
    """Whether opening an entry checks its payload; else whoever reads it proves it, as what is under a digest."""
    begun: str = ""
    """What an entry is called whose builder has failed, if the next one goes on with what is there; it counts as an
    entry then. For kinds that are not checked."""
    sealed: bool = False
    """Whether an entry is opened as a copy in memory that nothing can change, and the copy is checked: for what is read
    without another check as long as it is open. Only for kinds that are checked."""


class StoredFile(FileReader):
    """The payload of an entry, open for reading until `close`, whatever happens to its name meanwhile.

    Its mtime says when it was made; the atime, when it was last used. That of a sealed kind is a copy in memory.
    """

    def map(self) -> mmap.mmap:
        """Map the payload of a sealed kind; a page of another kind that the disk has lost would cause SIGBUS.

        Raises InvalidImageError if the payload is empty.
        """
        if not self.size:
            raise InvalidImageError("a cache entry is empty: run `ocifs cache clear`")
        return mmap.mmap(self.fd, self.size, prot=mmap.PROT_READ)

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)


class Writer:
    """Takes an entry's payload in order. A full disk moves it into memory, and the writing goes on."""

    def __init__(self, fd: int, warn: Callable[[str], None], size: int = 0) -> None:
        self.fd = fd
        self.size = size
        """Bytes of the payload; there are some at first where an entry was begun."""
        self.crc = 0
        self.warn = warn
        self.in_memory = False
        self.for_memory = True
        """Whether it may be moved to memory."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append to the payload."""
        self.crc = zlib_ng.crc32(data, self.crc)
        self._write(data)

    def cut(self, size: int) -> None:
        """Take back what was written beyond `size` bytes, if anything was."""
        self.size = min(size, self.size)
        os.ftruncate(self.fd, self.size)

    def finish(self, kind: Kind, subject: str) -> None:
        """Append what makes the payload trustworthy, and make sure that all of it is on disk."""
        footer = _footer(kind, subject, self.size, self.crc)
        self._write(footer)
        self.size -= len(footer)
        if not self.in_memory:
            try:
                os.fsync(self.fd)
            except OSError as error:  # what was written may be lost, so there is nothing to go on with
                raise StoreError(f"cache: {error.strerror}: name another directory with --cache-dir") from None

    def close(self) -> None:
        """Give up: close what was written to."""
        os.close(self.fd)

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while view:
            try:
                written = os.pwrite(self.fd, view, self.size)
            except OSError as error:
                if self.in_memory or not self.for_memory or error.errno not in _REASONS_FOR_MEMORY:
                    raise StoreError(f"cache: {error.strerror}") from None
                self.warn(f"the cache cannot be written ({error.strerror}): going on without it")
                self._move_to_memory()
                continue
            view = view[written:]
            self.size += written

    def _move_to_memory(self) -> None:
        memory = os.memfd_create("ocifs")
        copied = 0
        while copied < self.size:
            copied += os.sendfile(memory, self.fd, copied, self.size - copied)
        os.ftruncate(self.fd, 0)
        os.close(self.fd)
        self.fd = memory
        self.in_memory = True


_REASONS_FOR_MEMORY = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}

Build = Callable[[Writer], None]


class CacheEntry(NamedTuple):
    """A file of the store, for listings. `used` is seconds since the epoch."""

    kind: str
    subject: str
    size: int
    used: float


class Store:
    """The cache below `directory`, which is made when it is missing; None keeps everything in memory."""

    def __init__(
        self,
        directory: Path | None,
        *,
        max_size: int = DEFAULT_MAX_SIZE,
        warn: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.max_size = max_size
        self._warn = warn
        self._warned = False
        self._entries: TrustedDirectory | None = None
        if directory is not None:
            try:
                self._entries = TrustedDirectory.open(directory, make=True).directory(_ENTRIES, make=True)
            except OSError as error:
                self._warn_of(error, directory)
        self.directory = directory if self._entries else None

    @classmethod
    def existing(cls, directory: Path) -> Self:
        """Open a cache to list or remove what is in it; it is empty if there is no such directory.

        Raises:
            StoreError: The directory is not a cache, or another user could have filled it.
        """
        store = cls(None)
        shown = printable_path(str(directory))
        try:
            opened = TrustedDirectory.open(directory)
            if _ENTRIES in os.listdir(opened.fd):
                store._entries = opened.directory(_ENTRIES)
                store.directory = directory
            elif os.listdir(opened.fd):
                raise StoreError(
                    f"{shown} is not a cache of ocifs: it has no directory {_ENTRIES!r}: name another with --cache-dir"
                )
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StoreError(f"cache directory {shown}: {error.strerror}: name another with --cache-dir") from None
        return store

    def warn(self, message: str) -> None:
        """Say that the cache is of no use, once."""
        if not self._warned:
            self._warned = True
            self._warn(message)

    def _warn_of(self, error: OSError, directory: Path | None) -> None:
        self.warn(f"cache directory {printable_path(str(directory))}: {error.strerror}: going on without it")

    def get(self, kind: Kind, subject: str, build: Build, *, anew: bool = False, size: int | None = None) -> StoredFile:
        """Return the entry, from the directory or built by `build`; with `anew` the one that is there is replaced.

        `size` is the length in bytes that the caller expects of an entry that may be begun. What was begun is shared
        only between callers that expect the same.

        Raises what `build` raises, TooManyFilesError when that is so, and LimitError when a sealed entry does not fit
        into memory.
        """
        entries = self._entries
        if entries is None:
            return _build_in_memory(kind, subject, build, self.warn)
        if not anew and (entry := self.load(kind, subject)) is not None:
            return entry
        temporary = _temporary(kind, subject, size)
        try:
            lock = _lock(entries, temporary)
        except OSError as error:
            raise_if_too_many_files(error)
            self._warn_of(error, self.directory)
            return _build_in_memory(kind, subject, build, self.warn)
        # While this process waited for the lock, another may have built the entry.
        if not anew and (entry := self.load(kind, subject)) is not None:
            _abandon(lock, entries, temporary)
            return entry
        return self._build(lock, entries, temporary, kind, subject, build)

    def load(self, kind: Kind, subject: str) -> StoredFile | None:
        """Return the entry if it is there and whole."""
        return None if self._entries is None else _open_checked(self._entries, _name(kind, subject), kind, subject)

    def sparse(self, kind: Kind, whole: Kind, subject: str, size: int) -> StoredFile:
        """Return a file of `size` bytes, for reading and writing, of which any part may be missing, and then is zero.

        Nothing is promised of it: whoever reads it proves what is read. Other processes may write to it meanwhile, the
        same bytes at the same places. One that `finish_sparse` has finished becomes an entry of the kind `whole`.

        `size` is a claim, so it is part of the file's name: a file is never cut, whatever size others claim.
        """
        if (finished := self.finished(kind, whole, subject, size)) is not None:
            return finished
        if self._entries is not None:
            name = _name(kind, _sized(subject, size))
            try:
                fd = self._entries.open_file(name, os.O_RDWR | os.O_CREAT)
                if os.fstat(fd).st_size < size:  # a longer one is being finished
                    os.truncate(fd, size)
                os.utime(fd)
            except OSError as error:
                self._warn_of(error, self.directory)
            else:
                self.prune(self.max_size, keep=name)
                return StoredFile(fd, 0, size)
        fd = os.memfd_create("ocifs")
        os.truncate(fd, size)
        return StoredFile(fd, 0, size)

    def finished(self, kind: Kind, whole: Kind, subject: str, size: int) -> StoredFile | None:
        """Return what was a sparse file of the first kind, if it is finished; it is of the kind `whole` from now on."""
        if self._entries is None:
            return None
        name = _name(kind, _sized(subject, size))
        file = _open_checked(self._entries, name, whole, subject)
        if file is not None:
            with contextlib.suppress(FileNotFoundError):  # somebody else was faster
                self._entries.rename(name, _name(whole, subject))
        return file

    def has(self, kind: Kind, subject: str) -> bool:
        """Whether there is such an entry, be it whole or not."""
        try:
            return self._entries is not None and is_own_file(self._entries.status(_name(kind, subject)))
        except FileNotFoundError:
            return False

    def entries(self) -> list[CacheEntry]:
        """List what the directory holds, least recently used first."""
        listed = []
        for name, status in self._by_use():
            kind, _, subject = name.partition("-")
            listed.append(CacheEntry(kind, subject.replace("-", ":", 1), _occupied(status), status.st_atime))
        return listed

    def prune(self, max_size: int, *, keep: str = "") -> int:
        """Remove least recently used entries until `max_size` bytes are left; return the bytes freed.

        Mounts go on: they hold their files open. What somebody builds stays, and so do the file called `keep` and all
        files that the store has not made.
        """
        if self._entries is None:
            return 0
        files = self._by_use()
        excess = sum(_occupied(status) for _, status in files) - max_size
        freed = 0
        for name, _ in files:
            if freed >= excess:
                break
            if name != keep:
                freed += _remove(self._entries, name)
        leftovers = [name for name, _ in self._files() if name.endswith(_TEMPORARY)]
        return freed + sum(_remove(self._entries, name) for name in leftovers)

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the files of this user that the store has made, temporary ones included."""
        for name, status in [] if self._entries is None else self._entries.files():
            if _NAME.fullmatch(name):
                yield name, status

    def _by_use(self) -> list[tuple[str, os.stat_result]]:
        """Return the entries, least recently used first."""
        files = [(name, status) for name, status in self._files() if not name.endswith(_TEMPORARY)]
        return sorted(files, key=lambda file: (file[1].st_atime_ns, file[1].st_size, file[0]))

    def _build(
        self, lock: int, entries: TrustedDirectory, temporary: str, kind: Kind, subject: str, build: Build
    ) -> StoredFile:
        """Build under the lock, which goes with the temporary file."""
        if kind.begun:
            os.utime(lock)
        else:
            os.ftruncate(lock, 0)
        with contextlib.ExitStack() as undo:
            undo.callback(_abandon, lock, entries, temporary, keep=bool(kind.begun))
            # The writer gets a descriptor of its own: moving to memory closes it, and the lock must outlive that.
            writer = Writer(entries.open_file(temporary, os.O_RDWR), self.warn, os.fstat(lock).st_size)
            undo.callback(writer.close)
            build(writer)
            writer.finish(kind, subject)
            if not writer.in_memory:
                self._publish(entries, temporary, _name(kind, subject))
            undo.pop_all()
        if writer.in_memory:
            _abandon(lock, entries, temporary)
        else:
            os.close(lock)
        return _built(writer, kind, subject)

    def _publish(self, entries: TrustedDirectory, temporary: str, name: str) -> None:
        """Give a built entry its name, and make room; whoever built it can use it even where that fails."""
        try:
            entries.rename(temporary, name)
            entries.sync()
            self.prune(self.max_size, keep=name)
        except OSError as error:
            raise_if_too_many_files(error)
            self._warn_of(error, self.directory)


def _name(kind: Kind, subject: str) -> str:
    """Return the name of an entry's file. Raises ValueError for a subject that is not a digest."""
    name = f"{kind.name}{kind.version}-{subject.replace(':', '-')}"
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} would not be recognised as an entry")
    return name


def _temporary(kind: Kind, subject: str, size: int | None) -> str:
    if kind.begun:
        return _name(Kind(kind.begun, kind.version), subject if size is None else _sized(subject, size))
    return _name(kind, subject) + _TEMPORARY


def _sized(subject: str, size: int) -> str:
    """Return the subject of a file that is not whole: what it is to become, and the size that its caller claims."""
    return f"{subject}-{size}"


def _occupied(status: os.stat_result) -> int:
    """Return the bytes that a file takes, of which it may have fewer than it is long."""
    return min(status.st_size, status.st_blocks * 512)


def finish_sparse(fd: int, kind: Kind, subject: str, size: int) -> None:
    """Say of a sparse file that it is an entry of `kind` that is whole; `kind` is one that is not checked."""
    footer = _footer(kind, subject, size, 0)
    os.fsync(fd)
    os.pwrite(fd, footer, size)
    os.truncate(fd, size + len(footer))  # whatever damage has put behind it


def _lock(entries: TrustedDirectory, temporary: str) -> int:
    """Open and lock `temporary`, waiting for whoever has it; sure that the name is still this file's."""
    while True:
        fd = entries.open_file(temporary, os.O_RDWR | os.O_CREAT)
        fcntl.flock(fd, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(entries.status(temporary), os.fstat(fd)):
                return fd
        os.close(fd)


def _abandon(lock: int, entries: TrustedDirectory, temporary: str, *, keep: bool = False) -> None:
    """Give up a temporary file; with `keep` what is in it is left for the next builder."""
    if not (keep and os.fstat(lock).st_size):
        entries.unlink(temporary)
    os.close(lock)


def _remove(entries: TrustedDirectory, name: str) -> int:
    """Remove a file, unless somebody builds it; return the bytes freed."""
    try:
        fd = entries.open_file(name, os.O_RDONLY)
    except OSError:
        return 0
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(fd)
        if not os.path.samestat(entries.status(name), status):  # whoever had the lock has made an entry of it
            return 0
        entries.unlink(name)
    except OSError:
        return 0
    finally:
        os.close(fd)
    return _occupied(status)


def _build_in_memory(kind: Kind, subject: str, build: Build, warn: Callable[[str], None]) -> StoredFile:
    writer = Writer(os.memfd_create("ocifs"), warn)
    writer.in_memory = True
    with contextlib.ExitStack() as undo:
        undo.callback(writer.close)
        build(writer)
        writer.finish(kind, subject)
        undo.pop_all()
    return _built(writer, kind, subject)


def _built(writer: Writer, kind: Kind, subject: str) -> StoredFile:
    """Return what was just built as it would be opened."""
    if not kind.sealed:
        return StoredFile(writer.fd, 0, writer.size)
    try:
        file = _checked(writer.fd, kind, subject)
    finally:
        os.close(writer.fd)
    if file is None:
        raise StoreError("cache: what was just written reads as something else: name another with --cache-dir")
    return file


def _footer(kind: Kind, subject: str, size: int, crc: int) -> bytes:
    footer = _FOOTER.pack(f"ocifs {kind.name}".encode(), kind.version, subject.encode(), size, crc)
    return footer + _FOOTER_CRC.pack(zlib_ng.crc32(footer))


def _open_checked(entries: TrustedDirectory, name: str, kind: Kind, subject: str) -> StoredFile | None:
    """Open an entry if every byte of it is as it was written; mark it as used."""
    try:
        fd = entries.open_file(name, os.O_RDONLY)
    except OSError as error:
        raise_if_too_many_files(error)
        return None
    file = None
    try:
        file = _checked(fd, kind, subject)
    finally:
        if file is None or file.fd != fd:
            os.close(fd)
    return file


def _checked(fd: int, kind: Kind, subject: str) -> StoredFile | None:
    """Return the entry that an open file holds, with this descriptor or, if the kind is sealed, with another one.

    Raises LimitError: there is no room in memory for a copy.
    """
    with contextlib.ExitStack() as undo:
        try:
            status = os.fstat(fd)
            size = status.st_size - _FOOTER_SIZE
            footer = os.pread(fd, _FOOTER_SIZE, size) if size >= 0 else b""
            if not footer or footer != _footer(kind, subject, size, _stated_crc(footer)):
                return None
            copy = _sealable() if kind.sealed else None
            if copy is not None:
                undo.callback(os.close, copy)
            if kind.checked and _crc(fd, size, copy) != _stated_crc(footer):
                return None
        except OSError:  # a disk that cannot be read is no better than a wrong checksum
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
    """Return the CRC of a payload; append to the file `copy` just the bytes that it is of."""
    crc = 0
    for offset in range(0, size, _CHECKED_AT_ONCE):
        data = os.pread(fd, min(_CHECKED_AT_ONCE, size - offset), offset)
        crc = zlib_ng.crc32(data, crc)
        if copy is not None:
            _append(copy, data)
    return crc


def _sealable() -> int:
    """Return a file in memory that can be sealed. Raises LimitError."""
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
    raise_if_too_many_files(error)
    return LimitError(
        f"cache: an entry cannot be copied into memory: {error.strerror}: allow more memory or larger files (ulimit -f)"
    )


def _fsync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
