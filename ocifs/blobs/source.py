"""The interface of every source: documents as bytes, and blobs that are complete, downloading or partial.

A local source (`ocifs.sources.source.LocalSource`) has complete blobs only; `CachingSource` has all three.
"""

from typing import Protocol

from ocifs.blobs.download import Blob
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.reader import FileSection
from ocifs.sources.referrers import Referrers
from ocifs.sources.source import DocumentSource, NamedImage
from ocifs.spec.descriptor import Descriptor


class Source(DocumentSource, Protocol):
    """A place that holds images. It owns what it opens until it is closed."""

    is_remote: bool
    """Whether blobs have to be fetched; else all are complete."""

    def images(self) -> tuple[NamedImage, ...]:
        """Return what the source holds, in its order: the position of each is what `@N` names.

        Raises:
            UnsupportedError: The source does not list its images.
        """
        ...

    def open(self, descriptor: Descriptor) -> Blob:
        """Return a blob: complete, of the size that the descriptor gives, its digest not verified; or downloading.

        Raises:
            NotFoundError: There is no such blob.
            InvalidImageError: It is no regular file, or not of that size.
        """
        ...

    def open_lazily(self, descriptor: Descriptor) -> FileSection | LazyBlob:
        """Return a blob: complete, or partial, which fetches only what is read; raises as `open`."""
        ...

    def is_cached(self, descriptor: Descriptor) -> bool:
        """Whether all of a blob of a remote source is in the cache."""
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
