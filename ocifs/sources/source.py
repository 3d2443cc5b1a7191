"""What a source is: a layout, an archive, a registry or whatever else holds images.

`DocumentSource` is what resolving an image takes; `ocifs.blobs.source.Source` adds the blobs. `LocalSource` is the base
of sources whose blobs are pieces of files on this machine: a new one adds how it finds its images and blobs.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple, Protocol

from ocifs.errors import InvalidImageError, UnsupportedError
from ocifs.limits import Limits
from ocifs.reader import BlobReader, ReaderAt
from ocifs.sources.reference import Reference
from ocifs.sources.referrers import Referrers
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest
from ocifs.spec.manifest import parse_document


class NamedImage(NamedTuple):
    """An image of a source, or an index of images, with its names there."""

    names: tuple[str, ...]
    """What `PATH:NAME` takes, the fullest first; none: only its position or its digest names it."""
    descriptor: Descriptor


class DocumentSource(Protocol):
    """A place that holds images: its documents. It owns what it opens until it is closed."""

    limits: Limits
    """What its images may cost."""

    def resolve(self, reference: Reference) -> tuple[Descriptor, ...]:
        """Return what `reference` names: a manifest or an index, or several manifests to choose from by platform.

        Raises:
            NotFoundError: It names nothing here, or more than one thing; the message lists the choices.
        """
        ...

    def images(self) -> tuple[NamedImage, ...]:
        """Return what the source holds, in its order: the position of each is what `@N` names.

        Raises:
            UnsupportedError: The source does not list its images.
        """
        ...

    def document(self, descriptor: Descriptor) -> bytes:
        """Return a manifest, index or config, its size and digest verified.

        Raises:
            LimitError: It is larger than a document may be.
            NotFoundError: There is no such blob.
            InvalidImageError: The bytes are not those that the descriptor names.
        """
        ...

    def referrers(self) -> Referrers:
        """Return the artifacts that refer to the source's manifests.

        Raises:
            UnsupportedError: The source has no place for them.
        """
        ...

    def close(self) -> None:
        """Stop downloads and close every file; blobs that were opened can no longer be read."""
        ...


class LocalSource(DocumentSource):
    """A source whose blobs are all complete, on this machine; implements `ocifs.blobs.source.Source`."""

    is_remote = False

    def __init__(self, name: str, limits: Limits) -> None:
        self.name = name
        """Name in errors."""
        self.limits = limits

    @abstractmethod
    def open(self, descriptor: Descriptor) -> BlobReader:
        """Return a blob of the size that the descriptor gives; its digest is not verified."""

    def tags(self) -> list[str]:
        """Return the fullest name of each image that has one."""
        return list(dict.fromkeys(names[0] for names in self.names() if names))

    def document(self, descriptor: Descriptor) -> bytes:
        """Return a document, its size and digest verified."""
        return read_document(self.open, descriptor, self.limits)

    @abstractmethod
    def names(self) -> list[tuple[str, ...]]:
        """Return the names of each image, as `images` does, without reading anything about the images."""

    def open_lazily(self, descriptor: Descriptor) -> BlobReader:
        """Return a blob, complete as always."""
        return self.open(descriptor)

    def is_cached(self, _: Descriptor) -> bool:
        """Return False: nothing is fetched."""
        return False

    def pinned(self, reference: Reference, _: Digest) -> str:
        """Return the reference with an absolute path."""
        return reference.absolute()

    def list_referrers(self, _subject: Descriptor, _artifact_type: str) -> list[Descriptor]:
        """Return no artifacts: it cannot hold any."""
        return []

    def referrers(self) -> Referrers:
        """Raise UnsupportedError."""
        raise UnsupportedError(f"{self.name} cannot hold published indexes: use a registry or a layout directory")


def read_document(open_blob: Callable[[Descriptor], ReaderAt], descriptor: Descriptor, limits: Limits) -> bytes:
    """Open and return a document, its size and digest verified.

    Raises:
        LimitError: It is larger than a document may be; it was not opened.
        InvalidImageError: The bytes are not those that the descriptor names.
    """
    if descriptor.size > limits.document:
        raise limits.passed("document", f"document {descriptor.digest} has {descriptor.size} bytes")
    data = open_blob(descriptor).pread(descriptor.size, 0)
    if len(data) != descriptor.size:
        raise InvalidImageError(f"{descriptor.digest} ends after {len(data)} of {descriptor.size} bytes")
    actual = Digest.of(data, descriptor.digest.algorithm)
    if actual != descriptor.digest:
        raise InvalidImageError(f"blob {descriptor.digest} is damaged: its content has the digest {actual}")
    return data


def descriptor_of(blob: ReaderAt, digest: Digest, name: str, limits: Limits) -> Descriptor:
    """Describe the manifest or index in a blob that only its digest names; `name` is for errors.

    Raises:
        LimitError: It is larger than a document may be.
        InvalidImageError: It is neither.
    """
    document = parse_document(read_metadata(blob, name, limits), name)
    return Descriptor(media_type=document.media_type, digest=digest, size=blob.size)


def read_metadata(blob: ReaderAt, name: str, limits: Limits) -> bytes:
    """Return all of a document that no descriptor names, such as `index.json`.

    Raises:
        LimitError: It is larger than a document may be.
    """
    if blob.size > limits.document:
        raise limits.passed("document", f"{name} has {blob.size} bytes")
    return blob.pread(blob.size, 0)
