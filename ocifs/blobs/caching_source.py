"""A remote source with the store in front of it: each blob is downloaded once, into the store, and is read from there.

The remote source is a registry, or an archive on a web server.

The store does not verify a blob again when it is opened: documents and spans are verified when they are read.
"""

import threading
from typing import TYPE_CHECKING, Protocol

from ocifs.blobs.download import BLOB, PART, Blob, Download, Progress, ignored
from ocifs.blobs.kept_referrers import KeptReferrers
from ocifs.errors import InvalidImageError
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.limits import Limits
from ocifs.reader import FileSection, ReaderAt
from ocifs.sources.reference import Reference
from ocifs.sources.referrers import Referrers
from ocifs.sources.source import NamedImage, descriptor_of, read_document
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest
from ocifs.store import Store, StoredFile, Writer
from ocifs.store.sparse import open_finished, open_sparse

if TYPE_CHECKING:
    from ocifs.sources.registry.blob import RemoteBlob

_CONCURRENT_DOWNLOADS = 4


class RemoteSource(Protocol):
    """A place of images on another machine: a registry, or an archive on a web server."""

    limits: Limits

    def resolve(self, reference: Reference) -> tuple[Descriptor, ...]:
        """Return what `reference` names."""
        ...

    def pinned(self, reference: Reference, digest: Digest) -> str:
        """Return a reference that means the image `digest` later too."""
        ...

    def images(self) -> tuple[NamedImage, ...]:
        """Return its images. Raises UnsupportedError if it does not list them."""
        ...

    def tags(self) -> list[str]:
        """Return the names of its images."""
        ...

    def fetched(self, descriptor: Descriptor) -> bytes | None:
        """Return a blob whose bytes are in memory already."""
        ...

    def open(self, descriptor: Descriptor) -> "RemoteBlob":
        """Return a blob, without sending a request."""
        ...

    def referrers(self) -> Referrers:
        """Return the artifacts there."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


class CachingSource:
    """A registry or another remote source, and the store in front of it."""

    is_remote = True

    def __init__(
        self,
        registry: RemoteSource,
        store: Store,
        downloading: Progress = ignored,
        *,
        is_addressed_by_digest: bool = True,
        repository: str | None = None,
        prefer_kept: bool = False,
    ) -> None:
        """Read from `registry`; `downloading` receives the progress of each download of a whole blob.

        The last list of artifacts is kept for `repository`, `HOST[:PORT]/REPOSITORY`, if it is one. With
        `prefer_kept`, the registry is not asked for it again.
        Unless it `is_addressed_by_digest`, it resolves a digest itself, even if the store has the manifest.
        """
        self.limits = registry.limits
        self._is_addressed_by_digest = is_addressed_by_digest
        self._registry = registry
        self._repository = repository
        self._prefer_kept = prefer_kept
        self._store = store
        self._downloading = downloading
        self._slots = threading.Semaphore(_CONCURRENT_DOWNLOADS)
        self._blobs: dict[Digest, StoredFile | Download] = {}
        self._files: list[StoredFile] = []

    def resolve(self, reference: Reference) -> tuple[Descriptor, ...]:
        """Return what `reference` names; a digest whose manifest is in the store needs no registry."""
        digest = reference.digest if self._is_addressed_by_digest else None
        if digest is not None and (file := self._store.load(BLOB, digest)) is not None:
            try:
                return (descriptor_of(file, digest, f"manifest {digest}", self.limits),)
            finally:
                file.close()
        return self._registry.resolve(reference)

    def pinned(self, reference: Reference, digest: Digest) -> str:
        """Return a reference that means the image `digest` later too."""
        return self._registry.pinned(reference, digest)

    def images(self) -> tuple[NamedImage, ...]:
        """Return the images there; raises UnsupportedError for a registry, which may not list them."""
        return self._registry.images()

    def tags(self) -> list[str]:
        """Return the tags of the repository, or the names in the archive; raises as the remote source."""
        return self._registry.tags()

    def document(self, descriptor: Descriptor) -> bytes:
        """Return a document, its size and digest verified."""
        return read_document(self.open, descriptor, self.limits)

    def open(self, descriptor: Descriptor) -> Blob:
        """Return the blob from the store, or its download; raises what the registry does."""
        blob = self._blobs.get(descriptor.digest)
        if blob is None:
            blob = self._blobs[descriptor.digest] = self._open(descriptor)
        if blob.size != descriptor.size:
            raise _other_size(descriptor, blob)
        return blob

    def is_cached(self, descriptor: Descriptor) -> bool:
        """Whether all of a blob is in the store."""
        if descriptor.digest not in self._blobs and (file := self._stored(descriptor)) is not None:
            self._blobs[descriptor.digest] = file
        return isinstance(self._blobs.get(descriptor.digest), StoredFile)

    def open_lazily(self, descriptor: Descriptor) -> FileSection | LazyBlob:
        """Return the blob from the store, or one that fetches only what is read of it."""
        file = self._stored(descriptor)
        if file is None and (data := self._registry.fetched(descriptor)) is not None:
            file = self._write(descriptor.digest, data)
        if file is None:
            remote = self._registry.open(descriptor)
            file = open_sparse(self._store, PART, BLOB, descriptor.digest, descriptor.size)
            self._files.append(file)
            return LazyBlob(file.fd, file.size, remote.origin, lambda: remote)
        self._files.append(file)
        if file.size != descriptor.size:
            raise _other_size(descriptor, file)
        return file

    def referrers(self) -> Referrers:
        """Return the artifacts there."""
        referrers = self._registry.referrers()
        if self._repository is None:
            return referrers
        return KeptReferrers(referrers, self._store, self._repository, prefer_kept=self._prefer_kept)

    def close(self) -> None:
        """Stop downloads and close everything."""
        for file in (*self._files, *self._blobs.values()):
            file.close()
        self._registry.close()

    def _stored(self, descriptor: Descriptor) -> StoredFile | None:
        """Return a blob of which all bytes are in the store."""
        digest = descriptor.digest
        return self._store.load(BLOB, digest) or open_finished(self._store, PART, BLOB, digest, descriptor.size)

    def _open(self, descriptor: Descriptor) -> StoredFile | Download:
        file = self._stored(descriptor)
        if file is not None:
            return file
        data = self._registry.fetched(descriptor)
        if data is None:
            return Download(self._registry.open(descriptor), self._store, self._slots, self._downloading)
        return self._write(descriptor.digest, data)

    def _write(self, digest: Digest, data: bytes) -> StoredFile:
        def write(out: Writer) -> None:
            out.cut(0)  # discard an earlier download
            out.write(data)

        return self._store.get(BLOB, digest, write, size=len(data))


def _other_size(descriptor: Descriptor, blob: ReaderAt) -> InvalidImageError:
    return InvalidImageError(f"blob {descriptor.digest} has {blob.size} bytes, its descriptor says {descriptor.size}")
