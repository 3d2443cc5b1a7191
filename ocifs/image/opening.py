"""Opening an image: the one conductor, from a reference to a rootfs.

It asks the source for manifest and config, the store for what is known of the layers and of their merged tree, has
built what is missing, and checks that layers and config belong together. Each step is somebody else's; the order is
this module's. Everything that can be wrong with an image comes out here, before anything is mounted.
"""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import msgspec

from ocifs.errors import OcifsError
from ocifs.image.rootfs import Rootfs
from ocifs.layer.build import LayerBlob, Limits, open_layer_index
from ocifs.layer.index import LayerIndex
from ocifs.layer.layer import Layer
from ocifs.layer.span_cache import DEFAULT_CAPACITY, SpanCache
from ocifs.sources.reference import Reference, parse_reference
from ocifs.sources.resolve import ResolvedImage, open_source, resolve_image
from ocifs.spec.digest import ChainID, Digest, chain_id
from ocifs.spec.platform import Platform
from ocifs.store import Kind, Store, StoredFile, Writer

TREE_IMAGE = Kind("tree", 1)
"""Named by the chain ID of the layers, so images of the same layers, however compressed, share it."""


_MAX_WARNINGS = 100


def _ignore(message: str) -> None:
    """Take no notice."""


def _no_progress(layer: Digest, done: int, total: int) -> None:
    """Take no notice."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to open an image."""

    store: Store = msgspec.field(default_factory=lambda: Store(None))
    """Where what is learnt of the image is kept; by default in memory, for as long as it is open."""
    platform: Platform | None = None
    """Which image of an index; by default this machine's."""
    span_cache: int = DEFAULT_CAPACITY
    """Bytes of decoded spans to hold."""
    limits: Limits = Limits()
    warn: Callable[[str], None] = _ignore
    """Is told, a line each time, what is odd about the image but can be lived with."""
    progress: Callable[[Digest, int, int], None] = _no_progress
    """Is told (layer, compressed bytes read, compressed bytes in all) while a layer is indexed."""


class Image:
    """An opened image: a context manager that owns its files."""

    def __init__(self, resolved: ResolvedImage, rootfs: Rootfs, closing: ExitStack) -> None:
        self.resolved = resolved
        """What the image says of itself: name, digest, manifest, config, layers."""
        self.rootfs = rootfs
        """The merged tree."""
        self._closing = closing

    @property
    def digest(self) -> Digest:
        """The manifest's digest."""
        return self.resolved.digest

    @property
    def layers(self) -> list[Layer]:
        """The layers' tar streams, the base first."""
        return list(self.rootfs.served.layers)

    @property
    def indexes(self) -> list[LayerIndex]:
        """The LayerIndex of each layer, the base first."""
        return [layer.index for layer in self.layers]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        self._closing.close()


def open_image(reference: str | os.PathLike[str] | Reference, options: Options | None = None) -> Image:
    """Open an image by reference, such as `./debian:latest` or `oci-archive:image.tar`.

    Raises:
        NotFoundError: The reference names nothing, or more than one image.
        InvalidImageError: The image is not what its digests promise, or breaks the specification.
        UnsupportedError, LimitError: It holds what ocifs does not handle, or too much.
    """
    options = options or Options()
    if not isinstance(reference, Reference):
        reference = parse_reference(os.fspath(reference))
    with ExitStack() as stack:
        source = open_source(reference)
        stack.callback(source.close)
        resolved = resolve_image(source, reference, options.platform)
        blobs = [
            LayerBlob(layer.descriptor.digest, layer.diff_id, layer.compression, source.open(layer.descriptor))
            for layer in resolved.layers
        ]
        cache = SpanCache(options.span_cache)
        layers = [
            Layer(number, index, blob.blob, cache)
            for number, (index, blob) in enumerate(zip(_open_indexes(blobs, options, stack), blobs, strict=True))
        ]
        tree_image = _open_tree_image(chain_id([blob.diff_id for blob in blobs]), layers, options)
        stack.callback(tree_image.close)
        rootfs = Rootfs(tree_image, layers)
        stack.callback(rootfs.close)
        return Image(resolved, rootfs, stack.pop_all())


def _open_indexes(blobs: list[LayerBlob], options: Options, stack: ExitStack) -> list[LayerIndex]:
    """Open or make the index of each layer, the largest first, as many at a time as there are processors."""
    stop = threading.Event()

    def progress(layer: Digest, done: int, total: int) -> None:
        if stop.is_set():
            raise OcifsError("interrupted")
        options.progress(layer, done, total)

    distinct = {(blob.digest, blob.diff_id): blob for blob in blobs}
    largest_first = sorted(distinct, key=lambda key: -distinct[key].blob.size)
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads, ExitStack() as undo:
        opening = {
            key: threads.submit(open_layer_index, distinct[key], options.store, options.limits, options.warn, progress)
            for key in largest_first
        }
        undo.callback(_close_opened, opening.values())
        undo.callback(threads.shutdown, cancel_futures=True)
        undo.callback(stop.set)
        indexes = {key: future.result() for key, future in opening.items()}
        undo.pop_all()
    for index in indexes.values():
        stack.callback(os.close, index.file.fd)
    return [indexes[blob.digest, blob.diff_id] for blob in blobs]


def _close_opened(opening: Iterable[Future[LayerIndex]]) -> None:
    for future in opening:
        if future.done() and not future.cancelled() and future.exception() is None:
            os.close(future.result().file.fd)


def _open_tree_image(chain: ChainID, layers: list[Layer], options: Options) -> StoredFile:
    """Open the tree image, or merge the layers and compile it."""

    def build(out: Writer) -> None:
        # Imported only here: a warm start has no use for it.
        from ocifs.erofs.writer import compile_tree
        from ocifs.tree.merge import merge

        warn = _at_most(_MAX_WARNINGS, options.warn)
        root = merge((layer.index.toc() for layer in layers), warn)
        out.write(
            compile_tree(
                root,
                [layer.size for layer in layers],
                lambda layer, size, offset: layers[layer].pread(size, offset),
                warn,
            )
        )

    return options.store.get(TREE_IMAGE, chain, build)


def _at_most(count: int, warn: Callable[[str], None]) -> Callable[[str], None]:
    """Return `warn` for `count` messages: a hostile image has something odd in every entry."""
    left = count

    def bounded(message: str) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            warn(message)
        elif left == -1:
            warn("more warnings like these are left out")

    return bounded
