"""The store: entries that exist once, built by one process at a time, and evicted by age.

Entries are in `entries/`, which is a `TrustedDirectory`. `get` returns a complete and correct entry, or builds it. The
store writes a file under a temporary name, syncs it, and renames it atomically. The builder holds a lock on the
temporary file, so two processes do not build the same entry, and the next builder takes over the file of one that was
killed. For slow kinds, it continues where the last builder stopped. If a builder makes no progress, for example after
Ctrl-Z, others warn and build the entry under another temporary name. If the directory is not writable, the store keeps
entries in memory, with one warning. A lack of memory or of open files is an error instead: memory would not help.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

from ocifs import file_lock
from ocifs.errors import StoreError, printable_path, raise_if_short
from ocifs.store.entry import NAME, Kind, StoredFile, checked, file_name, is_spared, open_checked, sized
from ocifs.store.writer import Build, Writer
from ocifs.trusted_directory import TrustedDirectory, is_own_file

DEFAULT_MAX_SIZE = 10 << 30
"""Size of the directory in bytes above which the store evicts least recently used entries."""

_ENTRIES = "entries"
_TEMPORARY = ".tmp"
_SYSTEM_DIRECTORY = Path("/var/cache/ocifs")


def default_directory() -> Path:
    """Return the default cache directory, `$XDG_CACHE_HOME/ocifs`; for root without HOME, as at boot, the system's."""
    if os.geteuid() == 0 and not (os.environ.get("HOME") or os.environ.get("XDG_CACHE_HOME")):
        return _SYSTEM_DIRECTORY
    import platformdirs

    return platformdirs.user_cache_path("ocifs")


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
        self._stuck: set[str] = set()
        """The warnings about builders without progress."""
        self._root: TrustedDirectory | None = None
        self.opened: TrustedDirectory | None = None
        """The directory of the entries."""
        if directory is not None:
            try:
                self._root = TrustedDirectory.open(directory, make=True)
                self.opened = self._root.directory(_ENTRIES, make=True)
            except OSError as error:
                self.warn_of(error, directory)
        self.directory = directory if self.opened else None

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
                store.opened = opened.directory(_ENTRIES)
                store.directory = directory
            elif os.listdir(opened.fd):
                raise StoreError(
                    f"{shown} is not an ocifs cache: it has no directory {_ENTRIES!r}: name another with --cache-dir"
                )
        except FileNotFoundError:
            pass
        except OSError as error:
            raise_if_short(error)
            raise StoreError(f"cache directory {shown}: {error.strerror}: name another with --cache-dir") from None
        return store

    @classmethod
    def of_entries(cls, fd: int, max_size: int) -> Self:
        """Open a cache whose directory of entries another process has opened and checked; the store owns `fd`."""
        store = cls(None, max_size=max_size)
        store.opened = TrustedDirectory(Path(_ENTRIES), fd)
        return store

    def beside(self, name: str, *, make: bool = False) -> TrustedDirectory | None:
        """Open a directory beside that of the entries; None if this store is in memory. Raises OSError."""
        return None if self.opened is None or self._root is None else self._root.directory(name, make=make)

    def warn(self, message: str) -> None:
        """Warn once that the cache is unusable."""
        if not self._warned:
            self._warned = True
            self._warn(message)

    def warn_of(self, error: OSError, directory: Path | None) -> None:
        """Warn that a system call on `directory` failed; raise ShortageError if another one would fail too."""
        raise_if_short(error)
        self.warn(f"cache directory {printable_path(str(directory))}: {error.strerror}: continuing without it")

    def _warn_of_stuck(self, stuck: file_lock.StuckHolderError) -> None:
        """Warn once of each builder that makes no progress."""
        message = f"{stuck}, so what it puts into the cache is built again here: continue it (kill -CONT) or end it"
        if message not in self._stuck:
            self._stuck.add(message)
            self._warn(message)

    def get(
        self,
        kind: Kind,
        subject: str,
        build: Build,
        *,
        anew: bool = False,
        size: int | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> StoredFile:
        """Return the entry from the directory, or build it with `build`; with `anew`, replace an existing one.

        `size` is the length in bytes that the caller expects of a kind that may be partial. Only callers that expect
        the same size share a partial entry. `check` is called while another process builds the entry; its exception
        ends the wait.

        Raises the errors of `build` and `check`, ShortageError, and LimitError if a sealed entry does not fit into
        memory.
        """
        entries = self.opened
        if entries is None:
            return _build_in_memory(kind, subject, build, self.warn)
        if not anew and (entry := self.load(kind, subject)) is not None:
            return entry
        temporary = _temporary(kind, subject, size)
        try:
            try:
                lock = _lock(entries, temporary, check)
            except file_lock.StuckHolderError as stuck:
                self._warn_of_stuck(stuck)
                kind, temporary = kind._replace(begun=""), _temporary_beside(kind, subject)
                lock = _lock(entries, temporary, check)
        except OSError as error:
            self.warn_of(error, self.directory)
            return _build_in_memory(kind, subject, build, self.warn)
        # Another process may have built the entry while this one waited for the lock.
        if not anew and (entry := self.load(kind, subject)) is not None:
            _abandon(lock, entries, temporary)
            return entry
        return self._build(lock, entries, temporary, kind, subject, build)

    def load(self, kind: Kind, subject: str) -> StoredFile | None:
        """Return the entry if it exists and is valid."""
        return None if self.opened is None else open_checked(self.opened, file_name(kind, subject), kind, subject)

    def remove(self, kind: Kind, subject: str) -> None:
        """Remove an entry, if it exists and no process is building it."""
        if self.opened is not None:
            _remove(self.opened, file_name(kind, subject))

    def has(self, kind: Kind, subject: str) -> bool:
        """Whether the entry exists, valid or not."""
        try:
            return self.opened is not None and is_own_file(self.opened.status(file_name(kind, subject)))
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
        `keep`, all files that the store has not created, and, unless `max_size` is 0, notes of false indexes.
        """
        if self.opened is None:
            return 0
        files = self._by_use()
        excess = sum(_occupied(status) for _, status in files) - max_size
        freed = 0
        for name, _ in files:
            if freed >= excess:
                break
            if name != keep and not (max_size and is_spared(name)):
                freed += _remove(self.opened, name)
        leftovers = [name for name, _ in self._files() if name.endswith(_TEMPORARY)]
        return freed + sum(_remove(self.opened, name) for name in leftovers)

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield this user's files that the store has created, including temporary ones."""
        for name, status in [] if self.opened is None else self.opened.files():
            if NAME.fullmatch(name):
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
                self._publish(entries, temporary, file_name(kind, subject))
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
            self.warn_of(error, self.directory)


def _temporary(kind: Kind, subject: str, size: int | None) -> str:
    if kind.begun:
        return file_name(Kind(kind.begun, kind.version), subject if size is None else sized(subject, size))
    return file_name(kind, subject) + _TEMPORARY


def _temporary_beside(kind: Kind, subject: str) -> str:
    """Return a temporary name that no other builder has."""
    return f"{file_name(kind, subject)}-{int.from_bytes(os.urandom(6))}{_TEMPORARY}"


def _occupied(status: os.stat_result) -> int:
    """Return the bytes that a file takes on disk; a sparse file takes fewer than its length."""
    return min(status.st_size, status.st_blocks * 512)


def _lock(entries: TrustedDirectory, temporary: str, check: Callable[[], object]) -> int:
    """Open and lock `temporary`, waiting for its builder; check that the name still refers to the locked file.

    Raises what `check` does, OSError, and StuckHolderError.
    """
    while True:
        fd = entries.open_file(temporary, os.O_RDWR | os.O_CREAT)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, fd)
            file_lock.lock(fd, check)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(entries.status(temporary), os.fstat(fd)):
                    undo.pop_all()
                    return fd


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
        file = checked(writer.fd, kind, subject)
    finally:
        os.close(writer.fd)
    if file is None:
        raise StoreError("cache: an entry just written reads back differently: name another directory with --cache-dir")
    return file
