"""What a source is to the rest of ocifs, and how a document is read from one.

`Source` is the joint: a layout, an archive and whatever else holds images look the same from above.
"""

from typing import NamedTuple, Protocol

from ocifs.errors import InvalidImageError
from ocifs.limits import Limits
from ocifs.reader import ReaderAt
from ocifs.sources.reference import Reference
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest


class Named(NamedTuple):
    """An image of a source, or an index of images, with the names it goes by there."""

    names: tuple[str, ...]
    """What `PATH:NAME` takes, the fullest first; none: only its position or its digest names it."""
    descriptor: Descriptor


class Source(Protocol):
    """A place that holds images. It owns what it opens until it is closed."""

    limits: Limits
    """What its images may cost."""

    def resolve(self, reference: Reference) -> tuple[Descriptor, ...]:
        """Return what `reference` names: a manifest or an index, or several manifests to choose from by platform.

        Raises:
            NotFoundError: It names nothing here, or more than one thing; the message lists the choices.
        """
        ...

    def images(self) -> tuple[Named, ...]:
        """Return what the source holds, in its order: the position of each is what `@N` names."""
        ...

    def open(self, descriptor: Descriptor) -> ReaderAt:
        """Return the blob, of the size that the descriptor gives; its digest is not verified.

        Raises:
            NotFoundError: There is no such blob.
            InvalidImageError: It is no regular file, or not of that size.
        """
        ...

    def close(self) -> None:
        """Close every file; blobs that were opened can no longer be read."""
        ...


def read_document(source: Source, descriptor: Descriptor) -> bytes:
    """Return a manifest, index or config, its size and digest verified.

    Raises:
        LimitError: It is larger than a document may be.
        InvalidImageError: The bytes are not those that the descriptor names.
    """
    if descriptor.size > source.limits.document:
        raise source.limits.passed("document", f"document {descriptor.digest} has {descriptor.size} bytes")
    data = source.open(descriptor).pread(descriptor.size, 0)
    if len(data) != descriptor.size:
        raise InvalidImageError(f"{descriptor.digest} ends after {len(data)} of {descriptor.size} bytes")
    actual = Digest.of(data, descriptor.digest.algorithm)
    if actual != descriptor.digest:
        raise InvalidImageError(f"blob {descriptor.digest} is damaged: its content has the digest {actual}")
    return data


def read_metadata(blob: ReaderAt, name: str, limits: Limits) -> bytes:
    """Return all of a document that no descriptor names, such as `index.json`.

    Raises:
        LimitError: It is larger than a document may be.
    """
    if blob.size > limits.document:
        raise limits.passed("document", f"{name} has {blob.size} bytes")
    return blob.pread(blob.size, 0)
