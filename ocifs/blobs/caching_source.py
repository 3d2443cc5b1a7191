"""A registry with the store in front of it: each blob is downloaded once, into the store, and is read from there.

The store does not verify a blob again when it is opened: documents and spans are verified when they are read.
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ocifs.blobs.download import BLOB, Blob, Download, Progress, ignored
from ocifs.blobs.kept_referrers import KeptReferrers
from ocifs.blobs.source import Source
from ocifs.errors import InvalidImageError, UnsupportedError
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.reader import FileReader, FileSection, ReaderAt
from ocifs.sources.reference import Reference
from ocifs.sources.referrers import Referrers
from ocifs.sources.registry.access import Access
from ocifs.sources.resolve import open_source
from ocifs.sources.source import NamedImage, descriptor_of, read_document
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest
from ocifs.store import Kind, Store, StoredFile, Writer
from ocifs.store.sparse import open_finished, open_sparse

if TYPE_CHECKING:
    from ocifs.layer.compressed_archive import CompressedArchive
    from ocifs.sources.registry.source import RegistrySource

PART = Kind("part", 1, checked=False)
"""The bytes of a blob that were fetched so far (`ocifs.layer.lazy_blob`)."""

_CONCURRENT_DOWNLOADS = 4


class Preparing(NamedTuple):
    """How to prepare what cannot be read in place at once: blobs of a registry, compressed archives, standard input."""

    downloading: Progress = ignored
    """Called while a blob is downloaded."""
    progress: Callable[[Digest, int, int], None] = lambda archive, done, total: None
    """Called with (digest of the archive, compressed bytes read, compressed bytes in total)."""
    low_memory: bool = False
    warn: Callable[[str], None] = lambda message: None
    """Called with a notice if standard input has to be copied first."""


_SILENT = Preparing()


class CachingSource:
    """A registry, and the store in front of it."""

    is_remote = True

    def __init__(
        self, registry: "RegistrySource", store: Store, downloading: Progress = ignored, repository: str = ""
    ) -> None:
        """Read from `registry`; `downloading` receives the progress of each download of a whole blob.

        The last list of artifacts is kept for `repository`, `HOST[:PORT]/REPOSITORY`.
        """
        self._referrers = KeptReferrers(registry, store, repository)
        self.limits = registry.limits
        self._registry = registry
        self._store = store
        self._downloading = downloading
        self._slots = threading.Semaphore(_CONCURRENT_DOWNLOADS)
        self._blobs: dict[Digest, StoredFile | Download] = {}
        self._files: list[StoredFile] = []

    def resolve(self, reference: Reference) -> tuple[Descriptor, ...]:
        """Return what `reference` names; a digest whose manifest is in the store needs no registry."""
        if reference.digest is not None and (file := self._store.load(BLOB, reference.digest)) is not None:
            try:
                return (descriptor_of(file, reference.digest, f"manifest {reference.digest}", self.limits),)
            finally:
                file.close()
        return self._registry.resolve(reference)

    def images(self) -> tuple[NamedImage, ...]:
        """Raise UnsupportedError: not all registries can list their images."""
        raise UnsupportedError("ocifs does not list the images of a registry: `ocifs tags` lists their tags")

    def tags(self) -> list[str]:
        """Return the tags of the repository; raises what the registry does."""
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
        file = self._store.load(BLOB, descriptor.digest)
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
        """Return the artifacts in the registry."""
        return self._referrers

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
        data = self._registry.fetched(descriptor.digest)
        if data is None:
            return Download(self._registry.open(descriptor), self._store, self._slots, self._downloading)

        def write(out: Writer) -> None:
            out.cut(0)  # discard an earlier download
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
    preparing: Preparing = _SILENT,
) -> Source:
    """Open the source that a reference names, a registry with `store` in front of it. The caller closes it.

    An archive that is compressed as a whole is indexed first, as `preparing` says, unless `store` has its index.

    Raises:
        NotFoundError: The path cannot be opened, or nothing says which registry a short name is in.
        InvalidImageError: The path holds no images.
        UnsupportedError: They are stored in a way that cannot be read in place.
        OcifsError: The registry is blocked, or a file of its configuration is malformed.
    """
    if reference.transport == "docker":
        from ocifs.sources.registry.source import open_registry

        registry = open_registry(reference, access or Access(), limits)
        return CachingSource(registry, store, preparing.downloading, reference.path)

    def decompress(file: FileReader, name: str) -> "CompressedArchive":
        from ocifs.layer.compressed_archive import open_compressed

        return open_compressed(file, name, store, limits, preparing.progress, low_memory=preparing.low_memory)

    return open_source(reference, limits, follow_links=follow_links, decompress=decompress, warn=preparing.warn)
