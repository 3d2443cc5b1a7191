"""The interface of every source: documents as bytes, and blobs that are complete, downloading or partial.

A local source (`ocifs.sources.source.LocalSource`) has complete blobs only; `CachingSource` has all three.
"""

from typing import Protocol

from ocifs.blobs.download import Blob
from ocifs.reader import BlobReader
from ocifs.sources.reference import Reference
from ocifs.sources.source import DocumentSource
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest


class Source(DocumentSource, Protocol):
    """A place that holds images."""

    is_remote: bool
    """Whether blobs have to be fetched; else all are complete."""

    def pinned(self, reference: Reference, digest: Digest) -> str:
        """Return a reference to the image `digest`, which `reference` names, that means the same from any directory.

        It means the same image later too, as far as images of the source have names that do not change.
        """
        ...

    def tags(self) -> list[str]:
        """Return the names of the images, each once: those that `PATH:NAME` takes, the fullest of each image.

        Raises:
            NotFoundError, RegistryError: The registry does not list them.
        """
        ...

    def open(self, descriptor: Descriptor) -> Blob:
        """Return a blob: complete, of the size that the descriptor gives, its digest not verified; or downloading.

        Raises:
            NotFoundError: There is no such blob.
            InvalidImageError: It is not a regular file, or not of that size.
        """
        ...

    def open_lazily(self, descriptor: Descriptor) -> BlobReader:
        """Return a blob: complete, or partial, which fetches only what is read; raises as `open`."""
        ...

    def is_cached(self, descriptor: Descriptor) -> bool:
        """Whether all of a blob of a remote source is in the cache."""
        ...
