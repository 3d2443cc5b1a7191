"""What comes from a registry is kept: each blob is fetched once, into the store, and is read from there.

While a blob comes it is a `ReaderAt` already: whoever reads what is not there yet waits for it. So whatever goes
through a blob from front to end, such as the making of a LayerIndex, goes on beside the download without knowing. An
entry of the store is made only of bytes that have the digest. Processes that want the same blob wait for the one that
fetches.
"""

import threading
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from ocifs.errors import InvalidImageError, OcifsError, StoreError
from ocifs.layer import lazy
from ocifs.layer.lazy import LazyBlob
from ocifs.limits import DEFAULT_LIMITS, Limits
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

BLOB = Kind("blob", 1, checked=False)
PART = Kind("part", 1, checked=False)
"""What is here of a blob (`ocifs.layer.lazy`)."""

_AT_ONCE = 4
_MEMORY_MOST = 64 << 20
"""Bytes of a blob that is held in memory because the disk of the cache is full: documents, and small layers."""


@runtime_checkable
class Remote(Protocol):
    """A blob somewhere else, that can be had from front to end."""

    digest: Digest
    size: int

    def stream(self) -> Iterator[bytes]:
        """Give all of it in pieces."""
        ...


@runtime_checkable
class RemoteParts(Remote, lazy.Remote, Protocol):
    """A blob somewhere else, of which parts can be had as well."""

    def origin(self) -> Origin:
        """Where it is, for another process."""
        ...


class Download:
    """A blob on its way into the store. Safe to read from several threads."""

    def __init__(self, remote: Remote, store: Store, slots: threading.Semaphore) -> None:
        self.size = remote.size
        self._remote = remote
        self._store = store
        self._slots = slots
        self._changed = threading.Condition()
        self._out: Writer | None = None
        self._there = 0
        self._file: StoredFile | None = None
        self._error: OcifsError | None = None
        # Nobody waits for it at the end of the program: it may sit in a read from a network that is gone.
        threading.Thread(target=self._run, name="fetch", daemon=True).start()

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset`, when they are there. Raises what ended the download."""
        end = min(offset + size, self.size)
        with self._changed:
            while self._file is None:
                if self._error is not None:
                    raise self._error
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
            with self._slots:
                file = self._store.get(BLOB, self._remote.digest, self._fetch)
            if file.size != self.size:
                file.close()
                raise InvalidImageError(f"blob {self._remote.digest} has {file.size} bytes, not {self.size}")
        except OcifsError as error:
            self._end(error)
        except OSError as error:
            self._end(OcifsError(f"blob {self._remote.digest} cannot be kept: {error.strerror}"))
        else:
            with self._changed:
                if self._error is None:
                    self._file = file
                else:
                    file.close()
                self._changed.notify_all()

    def _end(self, error: OcifsError) -> None:
        with self._changed:
            if self._file is None and self._error is None:
                self._error = error
            self._changed.notify_all()

    def _fetch(self, out: Writer) -> None:
        """Write the blob, and prove it."""
        hasher = self._remote.digest.hasher()
        try:
            for piece in self._remote.stream():
                with self._changed:
                    if self._error is not None:
                        raise self._error
                    out.write(piece)
                    if out.in_memory and self._store.directory is not None and self.size > _MEMORY_MOST:
                        raise StoreError(
                            f"the cache has no room for blob {self._remote.digest} of {self.size} bytes: make some, "
                            "or name another directory with --cache-dir"
                        )
                    self._out, self._there = out, out.size
                    self._changed.notify_all()
                hasher.update(piece)
        finally:
            with self._changed:  # what becomes of its file is the store's business now
                self._out = None
        if hasher.hexdigest() != self._remote.digest.hex:
            raise InvalidImageError(
                f"blob {self._remote.digest} comes with other bytes: {hasher.name}:{hasher.hexdigest()}"
            )


class KeptSource:
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
        if descriptor.digest not in self._blobs and (file := self._whole(descriptor.digest)) is not None:
            self._blobs[descriptor.digest] = file
        return isinstance(self._blobs.get(descriptor.digest), StoredFile)

    def _whole(self, digest: Digest) -> StoredFile | None:
        return self._store.load(BLOB, digest) or self._store.finished(PART, BLOB, digest)

    def open_part(self, descriptor: Descriptor) -> FileReader:
        """Return the blob from the store, or so that what is read of it is fetched."""
        file = self._store.load(BLOB, descriptor.digest)
        if file is None:
            remote = self.source.open(descriptor)
            assert isinstance(remote, RemoteParts)  # noqa: S101 - whatever is no document
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
        file = self._whole(descriptor.digest)
        if file is not None:
            return file
        remote = self.source.open(descriptor)
        if isinstance(remote, Remote):
            return Download(remote, self._store, self._slots)
        data = remote.pread(remote.size, 0)  # a document that was fetched to resolve the reference
        return self._store.get(BLOB, descriptor.digest, lambda out: out.write(data))


def _other_size(descriptor: Descriptor, blob: ReaderAt) -> InvalidImageError:
    return InvalidImageError(f"blob {descriptor.digest} has {blob.size} bytes, its descriptor says {descriptor.size}")


def open_kept(
    reference: Reference, store: Store, access: Access | None = None, limits: Limits = DEFAULT_LIMITS
) -> Source:
    """Open what a reference names; what comes from a registry is kept in `store`. Raises what `open_source` does."""
    source = open_source(reference, access, limits)
    return KeptSource(source, store) if reference.transport == "docker" else source


def in_file(blob: ReaderAt) -> FileSection:
    """Return a blob as it lies in a file, when all of it does. Raises what ended its download."""
    section = blob.in_file() if isinstance(blob, Download) else blob
    assert isinstance(section, FileSection)  # noqa: S101 - all other sources give these
    return section
