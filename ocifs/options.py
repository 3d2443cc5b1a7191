"""Options for opening an image: every choice of the user, as one value."""

from collections.abc import Callable
from typing import Literal

import msgspec

from ocifs.errors import InvalidImageError
from ocifs.layer.span_cache import DEFAULT_CAPACITY
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.sources.registry.access import Access
from ocifs.spec.digest import Digest
from ocifs.spec.platform import Platform
from ocifs.store import Store

TocMode = Literal["use", "find", "verify", "ignore"]


def ignore(*_: object) -> None:
    """Do nothing."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to open an image."""

    store: Store = msgspec.field(default_factory=lambda: Store(None))
    """Caches LayerIndexes, tree images and remote blobs; by default in memory, for as long as the image is open."""
    lazy: bool = True
    """Fetch only what is read of remote layers whose index is known; otherwise fetch and verify whole layers."""
    trust_index: bool | None = None
    """Whether an index published in the registry may be used before it is verified. None: yes for a tag, whose meaning
    the registry decides anyway; no for a digest, unless the manifest commits to the index."""
    toc: TocMode = "use"
    """Treatment of a TOC in a layer (eStargz, zstd:chunked). `use`: use it if the layer's descriptor names it; `find`:
    also look for one at the end of other blobs; `verify`: index the tar, and compare the TOC with it; `ignore`: ignore
    it."""
    access: Access = Access()
    """How to access registries."""
    prefer_kept: bool = False
    """Do not ask a registry for published indexes again, if the store has its last answer."""
    follow_links: bool = False
    """Whether symlinks in a layout directory may lead out of it; those that stay inside are always followed."""
    platform: Platform | None = None
    """Which image of an index to open; by default this machine's."""
    layer: int | None = None
    """Open the image as if this were its last layer; 0 is the base, -1 the last. None: all layers."""
    changes_only: bool = False
    """Let the rootfs show what that layer changes, whiteouts included (`ocifs.tree.changes`), not the merged tree."""
    span_cache: int = DEFAULT_CAPACITY
    """Most bytes of decoded spans in memory."""
    limits: Limits = DEFAULT_LIMITS
    strict: bool = False
    """Treat warnings as errors, including those recorded at indexing."""
    low_memory: bool = False
    """Index one layer at a time, by the method that takes the least memory; slower."""
    quick: bool = False
    """Index layers in the fastest way; a later process trims their windows (`ocifs.layer.trimming`)."""
    warn: Callable[[str], None] = ignore
    """Called with each warning, one line."""
    tell: Callable[[str], None] = ignore
    """Called with one line for each layer whose published index is used."""
    gzidx: tuple[str, ...] = ()
    """GZIDX files, `FILE` or `N=FILE`, whose checkpoints are used for layers that have to be indexed."""
    progress: Callable[[Digest, int, int], None] = ignore
    """Called with (layer, compressed bytes read, compressed bytes in total) while a layer is indexed."""
    downloading: Callable[[Digest, int, int], None] = ignore
    """Called with (blob, bytes present, bytes in total) while a whole blob is downloaded; from several threads."""

    def complain(self, message: str) -> None:
        """Call `warn`; with `strict`, raise InvalidImageError instead."""
        if self.strict:
            raise InvalidImageError(f"{message}: refused by --strict")
        self.warn(message)
