"""From a reference to its source, with the cache in front of remote ones.

The modules of HTTP are imported only for references that need them.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ocifs.blobs.download import Progress, ignored
from ocifs.blobs.source import Source
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.reader import FileReader
from ocifs.sources.reference import Reference
from ocifs.sources.registry.access import Access
from ocifs.sources.resolve import open_source
from ocifs.spec.digest import Digest
from ocifs.store import Store

if TYPE_CHECKING:
    from ocifs.blobs.kept import Keeping
    from ocifs.layer.compressed_archive import CompressedArchive


class Preparing(NamedTuple):
    """How to prepare images that cannot be read in place: remote blobs, compressed archives, standard input."""

    downloading: Progress = ignored
    """Called while a blob, or an archive as a whole, is downloaded."""
    progress: Callable[[Digest, int, int], None] = lambda archive, done, total: None
    """Called with (digest of the archive, compressed bytes read, compressed bytes in total)."""
    low_memory: bool = False
    warn: Callable[[str], None] = lambda message: None
    """Called with a notice if standard input has to be copied first."""
    prefer_kept: bool = False
    """Whether to ask no registry for a list of artifacts that the store has."""


_SILENT = Preparing()


_KEPT = {"docker-daemon", "containers-storage"}


def open_cached(
    reference: Reference,
    store: Store,
    access: Access | None = None,
    limits: Limits = DEFAULT_LIMITS,
    *,
    follow_links: bool = False,
    preparing: Preparing = _SILENT,
) -> Source:
    """Open the source that a reference names, a remote one with `store` in front of it. The caller closes it.

    An archive that is compressed as a whole is indexed first, as `preparing` says, unless `store` has its index.

    Raises:
        NotFoundError: The path cannot be opened, or nothing says which registry a short name is in.
        InvalidImageError: The path holds no images.
        UnsupportedError: They are stored in a way that cannot be read in place.
        RegistryError: The web server or the engine cannot be reached, or refuses access.
        OcifsError: The registry is blocked, or a file of its configuration is malformed.
    """
    if reference.transport == "docker":
        from ocifs.blobs.caching_source import CachingSource
        from ocifs.sources.registry.source import open_registry

        registry = open_registry(reference, access or Access(), limits)
        return CachingSource(
            registry, store, preparing.downloading, repository=reference.path, prefer_kept=preparing.prefer_kept
        )

    def decompress(file: FileReader, name: str) -> "CompressedArchive":
        from ocifs.layer.compressed_archive import open_compressed

        return open_compressed(file, name, store, limits, preparing.progress, low_memory=preparing.low_memory)

    if reference.is_url or reference.transport in _KEPT:
        from ocifs.blobs.kept import Keeping

        keeping = Keeping(store, limits, decompress, preparing.downloading, preparing.warn)
        return _open_kept(reference, access or Access(), keeping)
    return open_source(reference, limits, follow_links=follow_links, decompress=decompress, warn=preparing.warn)


def _open_kept(reference: Reference, access: Access, keeping: "Keeping") -> Source:
    """Open a source of which the cache may keep a copy, or what a reader needs beside it."""
    if reference.is_url:
        from ocifs.blobs.url_archive import open_url

        return open_url(reference, access, keeping)
    if reference.transport == "docker-daemon":
        from ocifs.blobs.engine_image import open_engine_image

        return open_engine_image(reference, keeping)
    from ocifs.blobs.stored_image import open_stored_image

    return open_stored_image(reference, keeping)
