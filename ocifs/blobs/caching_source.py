"""What comes from a registry is kept: each blob is fetched once, into the store, and is read from there.

While a blob comes it is a `ReaderAt` already: whoever reads what is not there yet waits for it. So whatever goes
through a blob from front to end, such as the making of a LayerIndex, goes on beside the download without knowing. An
entry of the store is made only of bytes that have the digest. Processes that want the same blob wait for the one that
fetches; if it ends early, whoever is next goes on where it stopped, be it on another day.

The digest proves a blob only when all of it is there. If it does not, the blob is fetched anew: without what was left
of an earlier download, then from the next endpoint. Whoever has read of the wrong one is told, and reads again.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar, runtime_checkable

from ocifs.errors import InvalidImageError, OcifsError, StoreError, UnsupportedError
from ocifs.layer import lazy_blob
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.pool import start
from ocifs.reader import FileReader, FileSection, ReaderAt
from ocifs.sources.reference import Reference
from ocifs.sources.registry.access import Access
from ocifs.sources.registry.peer import Origin
from ocifs.sources.resolve import open_source
from ocifs.sources.source import Named, Source, read_metadata
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest
from ocifs.spec.manifest import parse_document
from ocifs.store import Kind, Store, StoredFile, Writer

BLOB = Kind("blob", 1, checked=False, begun="begun")
PART = Kind("part", 1, checked=False)
"""What is here of a blob (`ocifs.layer.lazy_blob`)."""

_AT_ONCE = 4
_MEMORY_MOST = 64 << 20
"""Bytes of a blob that is held in memory because the disk of the cache is full: documents, and small layers."""
_PIECE = 1 << 20

T = TypeVar("T")


@runtime_checkable
class BlobStream(Protocol):
    """A blob somewhere else, that can be had from front to end."""

    digest: Digest
    size: int

    def stream(self, start: int = 0) -> Iterator[bytes]:
        """Give all of it from `start` on, in pieces."""
        ...

    def distrust(self) -> bool:
        """Take it from another place, since the bytes were wrong; False if there is none."""
        ...


@runtime_checkable
class RemoteRanges(BlobStream, lazy_blob.BlobRanges, Protocol):
    """A blob somewhere else, of which parts can be had as well."""

    def origin(self) -> Origin:
        """Where it is, for another process."""
        ...


class Download:
    """A blob on its way into the store. Safe to read from several threads."""

    def __init__(self, remote: BlobStream, store: Store, slots: threading.Semaphore) -> None:
        self.size = remote.size
        self._remote = remote
        self._store = store
        self._slots = slots
        self._changed = threading.Condition()
        self._out: Writer | None = None
        self._there = 0
        self._wrong = False
        self._file: StoredFile | None = None
        self._error: Exception | None = None
        # Nobody waits for it at the end of the program: it may sit in a read from a network that is gone.
        start(threading.Thread(target=self._run, name="fetch", daemon=True))

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset`, when they are there; all of it only when it is proven.

        Raises what ended the download, and InvalidImageError once other bytes had to be thrown away.
        """
        end = min(offset + size, self.size)
        if end - offset == self.size:
            return self.in_file().pread(size, offset)
        with self._changed:
            while self._file is None or self._wrong:
                if self._error is not None:
                    raise self._error
                if self._wrong:  # what was read before may not belong to what is read from now on
                    raise InvalidImageError(f"blob {self._remote.digest} came with other bytes at first")
                if self._out is not None and self._there >= end:
                    # Under the lock, because a full disk makes the writer close its file.
                    return FileReader(self._out.fd, 0, self._there).pread(size, offset)
                self._changed.wait()
        return self._file.pread(size, offset)

    def in_file(self) -> StoredFile:
        """Wait until all of it is there, proven, and return it. Raises what ended the download."""
        with self._changed:
            while self._file is None:
                if self._error is not None:
                    raise self._error
                self._changed.wait()
            return self._file

    def was_wrong(self) -> bool:
        """Wait until all of it is there, and say whether other bytes were given before. Raises what ended it."""
        self.in_file()
        return self._wrong

    def stop(self) -> None:
        """Give up, as far as it is not done; whoever waits is told."""
        self._end(OcifsError("interrupted"))

    def close(self) -> None:
        """Stop, and close the file."""
        self.stop()
        with self._changed:
            if self._file is not None:
                self._file.close()

    def _run(self) -> None:
        try:
            file = self._kept()
        except OSError as error:
            self._end(OcifsError(f"blob {self._remote.digest} cannot be kept: {error.strerror}"))
        except Exception as error:  # noqa: BLE001 - a defect is for the waiting reader too
            self._end(error)
        else:
            with self._changed:
                if self._error is None:
                    self._file = file
                else:
                    file.close()
                self._changed.notify_all()

    def _kept(self) -> StoredFile:
        with self._slots:
            file = self._store.get(BLOB, self._remote.digest, self._fetch, size=self.size)
        if file.size != self.size:
            file.close()
            raise InvalidImageError(f"blob {self._remote.digest} has {file.size} bytes, not {self.size}")
        return file

    def _end(self, error: Exception) -> None:
        with self._changed:
            if self._file is None and self._error is None:
                self._error = error
            self._changed.notify_all()

    def _fetch(self, out: Writer) -> None:
        """Write the blob, going on with what is there of it, and prove it."""
        out.for_memory = self._store.directory is None or self.size <= _MEMORY_MOST
        out.cut(self.size)  # an end that was cut off in the footer
        try:
            left = out.size > 0
            while (found := self._write(out)) != self._remote.digest.hex:
                with self._changed:
                    self._out, self._there, self._wrong = None, 0, True
                    out.cut(0)
                if not left and not self._remote.distrust():
                    name = f"{self._remote.digest.algorithm}:{found}"
                    raise InvalidImageError(f"blob {self._remote.digest} comes with other bytes: {name}")
                left = False
        finally:
            with self._changed:  # what becomes of its file is the store's business now
                self._out = None

    def _write(self, out: Writer) -> str:
        """Write what is missing; return the digest of all, as hexadecimal digits."""
        hasher = self._remote.digest.hasher()
        for place in range(0, out.size, _PIECE):
            try:
                piece = FileReader(out.fd, 0, out.size).pread(_PIECE, place)
            except OSError:  # a disk that cannot be read is no better than wrong bytes
                return ""
            self._arrived(out, place + len(piece))
            hasher.update(piece)
        for piece in self._remote.stream(out.size):
            with self._changed:
                try:
                    out.write(piece)
                except StoreError:
                    out.cut(0)  # the disk may be full: nothing stays there that is of no use now
                    raise StoreError(
                        f"the cache has no room for blob {self._remote.digest} of {self.size} bytes: make some, "
                        "or name another directory with --cache-dir"
                    ) from None
                self._arrived(out, out.size)
            hasher.update(piece)
        return hasher.hexdigest()

    def _arrived(self, out: Writer, size: int) -> None:
        with self._changed:
            if self._error is not None:
                raise self._error
            self._out, self._there = out, size
            self._changed.notify_all()


class CachingSource:
    """A registry, and the store in front of it."""

    def __init__(self, source: Source, store: Store) -> None:
        self.limits = source.limits
        self.source = source
        """Where things come from."""
        self._store = store
        self._slots = threading.Semaphore(_AT_ONCE)
        self._blobs: dict[Digest, FileReader | Download] = {}
        self._files: list[StoredFile] = []

    def resolve(self, reference: Reference) -> tuple[Descriptor, ...]:
        """Return what `reference` names; a digest that was seen needs no registry."""
        if reference.digest is not None and (file := self._store.load(BLOB, reference.digest)) is not None:
            try:
                name = f"manifest {reference.digest}"
                document = parse_document(read_metadata(file, name, self.limits), name)
                return (Descriptor(media_type=document.media_type, digest=reference.digest, size=file.size),)
            finally:
                file.close()
        return self.source.resolve(reference)

    def images(self) -> tuple[Named, ...]:
        """Return what the source does."""
        return self.source.images()

    def open(self, descriptor: Descriptor) -> ReaderAt:
        """Return the blob from the store, or on its way there; raises what the source does."""
        blob = self._blobs.get(descriptor.digest)
        if blob is None:
            blob = self._blobs[descriptor.digest] = self._open(descriptor)
        if blob.size != descriptor.size:
            raise _other_size(descriptor, blob)
        return blob

    def has(self, descriptor: Descriptor) -> bool:
        """Whether all of a blob is here."""
        if descriptor.digest not in self._blobs and (file := self._whole(descriptor)) is not None:
            self._blobs[descriptor.digest] = file
        return isinstance(self._blobs.get(descriptor.digest), StoredFile)

    def _whole(self, descriptor: Descriptor) -> StoredFile | None:
        digest = descriptor.digest
        return self._store.load(BLOB, digest) or self._store.finished(PART, BLOB, digest, descriptor.size)

    def open_part(self, descriptor: Descriptor) -> FileReader:
        """Return the blob from the store, or so that what is read of it is fetched."""
        file = self._store.load(BLOB, descriptor.digest)
        if file is None:
            remote = self.source.open(descriptor)
            assert isinstance(remote, RemoteRanges)  # noqa: S101 - whatever is no document
            file = self._store.sparse(PART, BLOB, descriptor.digest, descriptor.size)
            self._files.append(file)
            return LazyBlob(file.fd, file.size, remote.origin, lambda: remote)
        self._files.append(file)
        if file.size != descriptor.size:
            raise _other_size(descriptor, file)
        return file

    def close(self) -> None:
        """Stop what is on its way, and close everything."""
        for file in self._files:
            file.close()
        for blob in self._blobs.values():
            if isinstance(blob, Download | StoredFile):
                blob.close()
        self.source.close()

    def _open(self, descriptor: Descriptor) -> FileReader | Download:
        file = self._whole(descriptor)
        if file is not None:
            return file
        remote = self.source.open(descriptor)
        if isinstance(remote, BlobStream):
            return Download(remote, self._store, self._slots)
        data = remote.pread(remote.size, 0)  # a document that was fetched to resolve the reference

        def write(out: Writer) -> None:
            out.cut(0)  # what is left of a download
            out.write(data)

        return self._store.get(BLOB, descriptor.digest, write, size=len(data))


def _other_size(descriptor: Descriptor, blob: ReaderAt) -> InvalidImageError:
    return InvalidImageError(f"blob {descriptor.digest} has {blob.size} bytes, its descriptor says {descriptor.size}")


def open_cached(
    reference: Reference,
    store: Store,
    access: Access | None = None,
    limits: Limits = DEFAULT_LIMITS,
    *,
    follow_links: bool = False,
) -> Source:
    """Open what a reference names; what comes from a registry is kept in `store`. Raises what `open_source` does."""
    source = open_source(reference, access, limits, follow_links=follow_links)
    return CachingSource(source, store) if reference.transport == "docker" else source


def in_file(blob: ReaderAt) -> FileSection:
    """Return a blob as it lies in a file, when all of it does. Raises what ended its download."""
    section = blob.in_file() if isinstance(blob, Download) else blob
    assert isinstance(section, FileSection)  # noqa: S101 - all other sources give these
    return section


def with_verified_bytes(blob: ReaderAt, use: Callable[[ReaderAt], T]) -> T:
    """Return what `use` makes of a blob; of the proven one, if it failed because wrong bytes came first."""
    try:
        return use(blob)
    except (InvalidImageError, UnsupportedError):
        if not isinstance(blob, Download) or not blob.was_wrong():
            raise
        return use(blob.in_file())
