"""How an image is to be opened: everything that a user may choose, as one value."""

from collections.abc import Callable
from typing import Literal

import msgspec

from ocifs.layer.span_cache import DEFAULT_CAPACITY
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.sources.registry.access import Access
from ocifs.spec.digest import Digest
from ocifs.spec.platform import Platform
from ocifs.store import Store


def ignore(message: str) -> None:
    """Take no notice."""


def _no_progress(layer: Digest, done: int, total: int) -> None:
    """Take no notice."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to open an image."""

    store: Store = msgspec.field(default_factory=lambda: Store(None))
    """Where what is learnt of the image is kept, and what comes from a registry; by default in memory, for as long as
    it is open."""
    lazy: bool = True
    """Fetch from a registry only what is read of layers whose index is known; else whole layers, which are proven."""
    trust_index: bool | None = None
    """Whether an index that is published in the registry may be used before it is proven; None: for a tag, since that
    means what the registry says, and not for a digest."""
    toc: Literal["use", "find", "verify", "ignore"] = "use"
    """What to do with a TOC that a layer carries (eStargz, zstd:chunked): use it where the layer's descriptor tells of
    one; look for one at the end of other blobs too; index the tar and hold the TOC against it; nothing."""
    access: Access = Access()
    """How registries are to be spoken to."""
    follow_links: bool = False
    """Whether symlinks in a layout directory may lead out of it; those that stay in it always are followed."""
    platform: Platform | None = None
    """Which image of an index; by default this machine's."""
    layer: int | None = None
    """Open the image as if this were its last layer, the base being 0, -1 the last; None: all layers."""
    changes_only: bool = False
    """Let the rootfs be what that layer changes, whiteouts among it (`ocifs.tree.changes`), not the merged tree."""
    span_cache: int = DEFAULT_CAPACITY
    """Bytes of decoded spans to hold."""
    limits: Limits = DEFAULT_LIMITS
    strict: bool = False
    """Refuse an image of which `warn` is, or was once, told; what is in the store remembers."""
    low_memory: bool = False
    """Index one layer at a time, in the way that takes the least memory; slower."""
    warn: Callable[[str], None] = ignore
    """Is told, a line each time, what is odd about the image but can be lived with."""
    tell: Callable[[str], None] = ignore
    """Is told, a line for each layer, which of the indexes that are published is taken."""
    gzidx: tuple[str, ...] = ()
    """GZIDX files, `FILE` or `N=FILE`, whose points are taken for layers that have to be indexed."""
    progress: Callable[[Digest, int, int], None] = _no_progress
    """Is told (layer, compressed bytes read, compressed bytes in all) while a layer is indexed."""
