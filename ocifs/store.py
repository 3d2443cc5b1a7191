"""The cache directory: files that ocifs can build again, named by the digest of their input.

Entries are in `entries/`, which is a `TrustedDirectory`. `get` returns a complete and correct entry, or builds it. The
store writes a file under a temporary name, syncs it, and renames it atomically. A footer has kind, format version,
subject, length and checksum; if any of them is wrong, the store builds the entry again. The builder holds a lock on
the temporary file, so two processes never build the same entry, and the next builder takes over the file of one that
was killed. For slow kinds, it continues where the last builder stopped. If the directory is not writable, the store
keeps entries in memory, with one warning. It does not know the content of the files.
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
"""Size of the directory in bytes above which the store evicts least recently used entries."""

_CHECK_SIZE = 1 << 20

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
    """Return the default cache directory, `$XDG_CACHE_HOME/ocifs`."""
    import platformdirs

    return platformdirs.user_cache_path("ocifs")


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


class Writer:
    """Writes an entry's payload in order. If the disk is full, it moves the payload to memory and continues."""

    def __init__(self, fd: int, warn: Callable[[str], None], size: int = 0) -> None:
        self.fd = fd
        self.size = size
        """Bytes of the payload so far; not 0 at first if the entry continues a partial one."""
        self.crc = 0
        self.warn = warn
        self.in_memory = False
        self.for_memory = True
        """Whether the payload may move to memory."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append to the payload."""
        self.crc = zlib_ng.crc32(data, self.crc)
        self._write(data)

    def cut(self, size: int) -> None:
        """Truncate the payload to at most `size` bytes."""
        self.size = min(size, self.size)
        os.ftruncate(self.fd, self.size)

    def finish(self, kind: Kind, subject: str) -> None:
        """Append the footer, and sync the file to disk."""
        footer = _footer(kind, subject, self.size, self.crc)
        self._write(footer)
        self.size -= len(footer)
        if not self.in_memory:
            try:
                os.fsync(self.fd)
            except OSError as error:  # written data may be lost, so moving to memory is not possible
                raise StoreError(f"cache: {error.strerror}: name another directory with --cache-dir") from None

    def close(self) -> None:
        """Close the unfinished file."""
        os.close(self.fd)

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while view:
            try:
                written = os.pwrite(self.fd, view, self.size)
            except OSError as error:
                if self.in_memory or not self.for_memory or error.errno not in _REASONS_FOR_MEMORY:
                    raise StoreError(f"cache: {error.strerror}") from None
                self.warn(f"cannot write to the cache: {error.strerror}: continuing without it")
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
    """A file of the store, for listings. `used` is in seconds since the epoch."""

    kind: str
    subject: str
    size: int
    used: float


class Store:
    """The cache below `directory`, which it creates if missing; None keeps all entries in memory."""

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
        self._root: TrustedDirectory | None = None
        self._entries: TrustedDirectory | None = None
        if directory is not None:
            try:
                self._root = TrustedDirectory.open(directory, make=True)
                self._entries = self._root.directory(_ENTRIES, make=True)
            except OSError as error:
                self._warn_of(error, directory)
        self.directory = directory if self._entries else None

    @classmethod
    def existing(cls, directory: Path) -> Self:
        """Open a cache to list or remove its entries; it is empty if the directory does not exist.

        Raises:
            StoreError: The directory is not a cache, or another user could have filled it.
        """
        store = cls(None)
        shown = printable_path(str(directory))
        try:
            opened = TrustedDirectory.open(directory)
            if _ENTRIES in os.listdir(opened.fd):
                store._root = opened
                store._entries = opened.directory(_ENTRIES)
                store.directory = directory
            elif os.listdir(opened.fd):
                raise StoreError(
                    f"{shown} is not an ocifs cache: it has no directory {_ENTRIES!r}: name another with --cache-dir"
                )
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StoreError(f"cache directory {shown}: {error.strerror}: name another with --cache-dir") from None
        return store

    def beside(self, name: str, *, make: bool = False) -> TrustedDirectory | None:
        """Open a directory beside that of the entries; None if this store is in memory. Raises OSError."""
        return None if self._entries is None or self._root is None else self._root.directory(name, make=make)

    def warn(self, message: str) -> None:
        """Warn once that the cache is unusable."""
        if not self._warned:
            self._warned = True
            self._warn(message)

    def _warn_of(self, error: OSError, directory: Path | None) -> None:
        self.warn(f"cache directory {printable_path(str(directory))}: {error.strerror}: continuing without it")

    def get(self, kind: Kind, subject: str, build: Build, *, anew: bool = False, size: int | None = None) -> StoredFile:
        """Return the entry from the directory, or build it with `build`; with `anew`, replace an existing one.

        `size` is the length in bytes that the caller expects of a kind that may be partial. Only callers that expect
        the same size share a partial entry.

        Raises the errors of `build`, TooManyFilesError, and LimitError if a sealed entry does not fit into memory.
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
        # Another process may have built the entry while this one waited for the lock.
        if not anew and (entry := self.load(kind, subject)) is not None:
            _abandon(lock, entries, temporary)
            return entry
        return self._build(lock, entries, temporary, kind, subject, build)

    def load(self, kind: Kind, subject: str) -> StoredFile | None:
        """Return the entry if it exists and is valid."""
        return None if self._entries is None else _open_checked(self._entries, _name(kind, subject), kind, subject)

    def sparse(self, kind: Kind, complete: Kind, subject: str, size: int) -> StoredFile:
        """Return a readable and writable file of `size` bytes; any part of it may be missing, and is then zero.

        The content is unverified: readers verify what they read. Other processes may write to it at the same time, the
        same bytes at the same offsets. After `finish_sparse`, the file becomes an entry of the kind `complete`.

        `size` is unverified too, so it is part of the file's name: another claimed size never truncates a file.
        """
        if (finished := self.finished(kind, complete, subject, size)) is not None:
            return finished
        if self._entries is not None:
            name = _name(kind, _sized(subject, size))
            try:
                fd = self._entries.open_file(name, os.O_RDWR | os.O_CREAT)
                if os.fstat(fd).st_size < size:  # another process is finishing a longer one
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

    def finished(self, kind: Kind, complete: Kind, subject: str, size: int) -> StoredFile | None:
        """If the sparse file of `kind` is finished, turn it into an entry of the kind `complete` and return that."""
        if self._entries is None:
            return None
        name = _name(kind, _sized(subject, size))
        file = _open_checked(self._entries, name, complete, subject)
        if file is not None:
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                self._entries.rename(name, _name(complete, subject))
        return file

    def has(self, kind: Kind, subject: str) -> bool:
        """Whether the entry exists, valid or not."""
        try:
            return self._entries is not None and is_own_file(self._entries.status(_name(kind, subject)))
        except FileNotFoundError:
            return False

    def entries(self) -> list[CacheEntry]:
        """Return the entries of the directory, least recently used first."""
        listed = []
        for name, status in self._by_use():
            kind, _, subject = name.partition("-")
            listed.append(CacheEntry(kind, subject.replace("-", ":", 1), _occupied(status), status.st_atime))
        return listed

    def prune(self, max_size: int, *, keep: str = "") -> int:
        """Remove least recently used entries until at most `max_size` bytes remain; return the bytes freed.

        Mounts are not affected: they keep their files open. Entries that a process is building stay, as do the file
        `keep` and all files that the store has not created.
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
        """Yield this user's files that the store has created, including temporary ones."""
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
        """Build the entry under the lock on its temporary file."""
        if kind.begun:
            os.utime(lock)
        else:
            os.ftruncate(lock, 0)
        with contextlib.ExitStack() as undo:
            undo.callback(_abandon, lock, entries, temporary, keep=bool(kind.begun))
            # The writer has its own descriptor: moving to memory closes it, and the lock must outlive that.
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
        """Rename a built entry to its name, and evict others. The caller can use the entry even if that fails."""
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
        raise ValueError(f"{name!r} is not a valid name of an entry")
    return name


def _temporary(kind: Kind, subject: str, size: int | None) -> str:
    if kind.begun:
        return _name(Kind(kind.begun, kind.version), subject if size is None else _sized(subject, size))
    return _name(kind, subject) + _TEMPORARY


def _sized(subject: str, size: int) -> str:
    """Return the subject of a partial file: the subject of the complete one, and the size that the caller expects."""
    return f"{subject}-{size}"


def _occupied(status: os.stat_result) -> int:
    """Return the bytes that a file takes on disk; a sparse file takes fewer than its length."""
    return min(status.st_size, status.st_blocks * 512)


def finish_sparse(fd: int, kind: Kind, subject: str, size: int) -> None:
    """Mark a sparse file as a complete entry of `kind`, which must be a kind that is not checked."""
    footer = _footer(kind, subject, size, 0)
    os.fsync(fd)
    os.pwrite(fd, footer, size)
    os.truncate(fd, size + len(footer))  # removes any damage behind the footer


def _lock(entries: TrustedDirectory, temporary: str) -> int:
    """Open and lock `temporary`, waiting for its builder; check that the name still refers to the locked file."""
    while True:
        fd = entries.open_file(temporary, os.O_RDWR | os.O_CREAT)
        fcntl.flock(fd, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(entries.status(temporary), os.fstat(fd)):
                return fd
        os.close(fd)


def _abandon(lock: int, entries: TrustedDirectory, temporary: str, *, keep: bool = False) -> None:
    """Remove a temporary file and its lock; with `keep`, leave a non-empty file for the next builder."""
    if not (keep and os.fstat(lock).st_size):
        entries.unlink(temporary)
    os.close(lock)


def _remove(entries: TrustedDirectory, name: str) -> int:
    """Remove a file, unless a builder has locked it; return the bytes freed."""
    try:
        fd = entries.open_file(name, os.O_RDONLY)
    except OSError:
        return 0
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(fd)
        if not os.path.samestat(entries.status(name), status):  # the builder has renamed it to its entry
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
    """Return the entry just built, opened like an existing one."""
    if not kind.sealed:
        return StoredFile(writer.fd, 0, writer.size)
    try:
        file = _checked(writer.fd, kind, subject)
    finally:
        os.close(writer.fd)
    if file is None:
        raise StoreError("cache: an entry just written reads back differently: name another directory with --cache-dir")
    return file


def _footer(kind: Kind, subject: str, size: int, crc: int) -> bytes:
    footer = _FOOTER.pack(f"ocifs {kind.name}".encode(), kind.version, subject.encode(), size, crc)
    return footer + _FOOTER_CRC.pack(zlib_ng.crc32(footer))


def _open_checked(entries: TrustedDirectory, name: str, kind: Kind, subject: str) -> StoredFile | None:
    """Open an entry if it is valid; mark it as used."""
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
    """Return the entry in an open file, with this descriptor or, for a sealed kind, with that of a copy in memory.

    Raises LimitError if there is no room in memory for a copy.
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
    raise_if_too_many_files(error)
    return LimitError(
        f"cache: cannot copy an entry into memory: {error.strerror}: allow more memory or larger files (ulimit -f)"
    )
