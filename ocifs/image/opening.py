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
from functools import partial
from types import TracebackType
from typing import Literal, NamedTuple, Self

import msgspec

from ocifs.errors import NotFoundError, OcifsError
from ocifs.image.gzidx import match_gzidx
from ocifs.image.kept import Download, KeptSource, in_file, of_right_bytes, open_kept
from ocifs.image.profile import load_profile
from ocifs.image.rootfs import Rootfs
from ocifs.image.trees import Trees, refuse_odd
from ocifs.layer.build import LayerBlob, open_layer_index
from ocifs.layer.index import KIND, LayerIndex
from ocifs.layer.layer import Layer
from ocifs.layer.profile import spans_of
from ocifs.layer.span_cache import DEFAULT_CAPACITY, SpanCache
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.sources.reference import Reference, parse_reference
from ocifs.sources.registry.access import Access
from ocifs.sources.resolve import Layer as LayerOfImage
from ocifs.sources.resolve import ResolvedImage, resolve_image
from ocifs.sources.source import Source
from ocifs.spec.digest import Digest
from ocifs.spec.platform import Platform
from ocifs.store import Store


def _ignore(message: str) -> None:
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
    warn: Callable[[str], None] = _ignore
    """Is told, a line each time, what is odd about the image but can be lived with."""
    tell: Callable[[str], None] = _ignore
    """Is told, a line for each layer, which of the indexes that are published is taken."""
    gzidx: tuple[str, ...] = ()
    """GZIDX files, `FILE` or `N=FILE`, whose points are taken for layers that have to be indexed."""
    progress: Callable[[Digest, int, int], None] = _no_progress
    """Is told (layer, compressed bytes read, compressed bytes in all) while a layer is indexed."""


class Image:
    """An opened image: a context manager that owns its files."""

    def __init__(
        self,
        source: Source,
        access: Access,
        resolved: ResolvedImage,
        rootfs: Rootfs,
        trees: Trees,
        closing: ExitStack,
    ) -> None:
        self.source = source
        """Where it is from."""
        self.access = access
        """How that is spoken to."""
        self.resolved = resolved
        """What the image says of itself: name, digest, manifest, config, and the layers that are opened."""
        self.rootfs = rootfs
        """The merged tree; or what the last layer changes, if only that was asked for."""
        self._trees = trees
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

    def index_of(self, layer: int) -> LayerIndex:
        """Return the LayerIndex of a layer.

        Raises:
            NotFoundError: There is no such layer.
        """
        return self.indexes[_number(layer, self.resolved)]

    def as_of(self, layer: int) -> Rootfs:
        """Return the merged tree of the layers up to `layer`; the image closes it.

        Raises:
            NotFoundError: There is no such layer.
        """
        return self._trees.as_of(_number(layer, self.resolved) + 1)

    def changes(self, layer: int) -> Rootfs:
        """Return what `layer` changes, as a tree with whiteouts (`ocifs.tree.changes`); the image closes it.

        Those of several layers cost least when they are asked for in order, the base first.

        Raises:
            NotFoundError: There is no such layer.
        """
        return self._trees.changes(_number(layer, self.resolved))

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
        NotFoundError: The reference names nothing, or more than one image; or there is no such layer.
        InvalidImageError: The image is not what its digests promise, or breaks the specification; or it has something
            odd and `options.strict` is set.
        UnsupportedError, LimitError: It holds what ocifs does not handle, or too much.
        RegistryError: Its registry cannot be reached, or refuses.
    """
    options = options or Options()
    if not isinstance(reference, Reference):
        reference = parse_reference(os.fspath(reference))
    with ExitStack() as stack:
        source = open_kept(reference, options.store, options.access, options.limits)
        stack.callback(source.close)
        resolved = _cut(resolve_image(source, reference, options.platform), options.layer)
        known = _known_indexes(source, resolved, options, stack, by_digest=reference.digest is not None)
        layers = _open_layers(source, resolved, known, options, stack)
        if options.toc == "verify":
            _verify_tocs(source, resolved, layers, options)
        trees = Trees(layers, options.store, options.warn, limits=options.limits, strict=options.strict)
        stack.callback(trees.close)
        if options.strict:
            for layer in layers:
                warnings = layer.index.summary.warnings
                refuse_odd(f"layer {layer.index.summary.blob_digest}", len(warnings), *warnings[:1])
            trees.as_of(len(layers))
        rootfs = trees.changes(len(layers) - 1) if options.changes_only and layers else trees.as_of(len(layers))
        return Image(source, options.access, resolved, rootfs, trees, stack.pop_all())


class _Known(NamedTuple):
    """A LayerIndex that needs not be made."""

    layer_index: LayerIndex
    published: str | None = None
    """Format and digest of what it comes from, if it is not proven."""
    prefetch: tuple[tuple[int, int], ...] = ()
    """Which spans to fetch first."""


def _known_indexes(
    source: Source, resolved: ResolvedImage, options: Options, stack: ExitStack, *, by_digest: bool
) -> dict[tuple[Digest, Digest], _Known]:
    """Return the LayerIndexes that are known of layers in a registry: what is read of these is fetched.

    A registry that is trusted for what a tag means is trusted for the index that it has of it; a digest is to be held
    against nothing but bytes, unless the user says otherwise.
    """
    if not options.lazy or not isinstance(source, KeptSource):
        return {}
    known: dict[tuple[Digest, Digest], _Known] = {}
    missing = []
    for layer in resolved.layers:
        file = options.store.load(KIND, layer.descriptor.digest)
        if file is None:
            missing.append(layer)
            continue
        stack.callback(file.close)
        index = LayerIndex(file)
        if index.summary.diff_id == layer.diff_id:
            known[_key(layer)] = _Known(index)
    # What is odd about a layer, its index might conceal.
    if not missing or options.trust_index is False or options.strict or options.toc == "verify":
        return known
    bound = by_digest and options.trust_index is None
    return known | _offered(source, resolved, missing, options, stack, bound=bound)


def _offered(
    source: KeptSource,
    resolved: ResolvedImage,
    layers: list[LayerOfImage],
    options: Options,
    stack: ExitStack,
    *,
    bound: bool,
) -> dict[tuple[Digest, Digest], _Known]:
    """Return the LayerIndexes that are taken of those that are published."""
    from ocifs.image.offer import Place
    from ocifs.image.offers import providers, take_offers
    from ocifs.layer.proof import is_marked

    place = Place(source, resolved, options.store, options.limits, stack)
    known = {}
    wanted = {layer.descriptor.digest for layer in layers}
    taken = take_offers(place, wanted, options.warn, bound=bound, providers=providers(options.toc))
    for layer in layers:
        if (found := taken.get(layer.descriptor.digest)) is None:
            continue
        published: str | None = str(found.offer)
        index = found.layer_index
        options.tell(f"layer {layer.descriptor.digest}: index {published}")
        if is_marked(index):  # from now on it is one of ours
            published = None
            if not index.summary.toc:  # which is no index of the tar
                data = index.file.pread(index.file.size, 0)
                file = options.store.get(KIND, layer.descriptor.digest, lambda out: out.write(data))  # noqa: B023
                stack.callback(file.close)
                index = LayerIndex(file)
        known[_key(layer)] = _Known(index, published, found.prefetch)
    return known


def _verify_tocs(source: Source, resolved: ResolvedImage, layers: list[Layer], options: Options) -> None:
    """Hold the TOCs that layers carry against what their tars have shown.

    Raises:
        InvalidImageError: One says something else.
    """
    from ocifs.image.offer import Place
    from ocifs.image.offers import find_offers
    from ocifs.image.tocs import PROVIDERS
    from ocifs.layer.chunked.proof import agrees

    with ExitStack() as closing:
        place = Place(source, resolved, Store(None), options.limits, closing)
        for offers in find_offers(place, options.warn, providers=PROVIDERS):
            for offer in offers:
                (layer, *_) = (each for each in layers if each.index.summary.blob_digest == offer.layer)
                try:
                    index = offer.open()
                except OcifsError as error:
                    raise type(error)(f"layer {offer.layer}: {error}") from None
                agrees(index, layer, lambda size: None)
                options.tell(f"layer {offer.layer}: index {offer} says what the tar does")


def _open_layers(
    source: Source,
    resolved: ResolvedImage,
    known: dict[tuple[Digest, Digest], _Known],
    options: Options,
    stack: ExitStack,
) -> list[Layer]:
    """Open the layers: those whose index is not known are indexed, and read from front to end for that."""
    points = match_gzidx(options.gzidx, resolved.layers) if options.gzidx else {}
    for digest in points:
        if options.store.has(KIND, digest):
            options.warn(f"layer {digest} is indexed already: its GZIDX file is not used")
    blobs = [
        LayerBlob(
            layer.descriptor.digest,
            layer.diff_id,
            layer.compression,
            source.open(layer.descriptor),
            points.get(layer.descriptor.digest),
        )
        for layer in resolved.layers
        if _key(layer) not in known
    ]
    made = iter(zip(_open_indexes(blobs, options, stack), blobs, strict=True))
    cache = SpanCache(options.span_cache)
    profile = load_profile(options.store, resolved.digest) if known else {}
    layers = []
    for number, layer in enumerate(resolved.layers):
        if (found := known.get(_key(layer))) is None:
            index, blob = next(made)
            layers.append(Layer(number, index, in_file(blob.blob), cache))
        else:
            assert isinstance(source, KeptSource)  # noqa: S101 - nothing is known else
            part = source.open_part(layer.descriptor)
            layers.append(Layer(number, found.layer_index, part, cache, found.published))
            recorded = profile.get(layer.descriptor.digest)
            layers[-1].prefetch = spans_of(recorded, found.layer_index) if recorded else found.prefetch
    return layers


def _key(layer: LayerOfImage) -> tuple[Digest, Digest]:
    return layer.descriptor.digest, layer.diff_id


def _cut(resolved: ResolvedImage, layer: int | None) -> ResolvedImage:
    return resolved if layer is None else resolved._replace(layers=resolved.layers[: _number(layer, resolved) + 1])


def _number(layer: int, resolved: ResolvedImage) -> int:
    """Return the position of a layer that may be counted from the end."""
    count = len(resolved.layers)
    if not -count <= layer < count:
        there = f"they are 0 to {count - 1}" if count else "there are none"
        raise NotFoundError(f"no layer {layer} among the {count} layers of {resolved.name}: {there}")
    return layer % count


def _open_indexes(blobs: list[LayerBlob], options: Options, stack: ExitStack) -> list[LayerIndex]:
    """Open or make the index of each layer, the largest first, as many at a time as there are processors."""
    stop = threading.Event()
    warn = _ignore if options.strict else options.warn

    def progress(layer: Digest, done: int, total: int) -> None:
        if stop.is_set():
            raise OcifsError("interrupted")
        options.progress(layer, done, total)

    distinct = {(blob.digest, blob.diff_id): blob for blob in blobs}
    largest_first = sorted(distinct, key=lambda key: -distinct[key].blob.size)
    make = partial(
        open_layer_index,
        store=options.store,
        limits=options.limits,
        warn=warn,
        progress=progress,
        low_memory=options.low_memory,
    )

    def open_one(layer: LayerBlob) -> LayerIndex:
        return of_right_bytes(layer.blob, lambda blob: make(layer._replace(blob=blob)))

    with ThreadPoolExecutor(1 if options.low_memory else os.cpu_count() or 1) as threads, ExitStack() as undo:
        opening = {key: threads.submit(open_one, distinct[key]) for key in largest_first}
        undo.callback(_close_opened, opening.values())
        undo.callback(threads.shutdown, cancel_futures=True)
        undo.callback(_stop_downloads, blobs)
        undo.callback(stop.set)
        indexes = {key: future.result() for key, future in opening.items()}
        undo.pop_all()
    for index in indexes.values():
        stack.callback(os.close, index.file.fd)
    return [indexes[blob.digest, blob.diff_id] for blob in blobs]


def _stop_downloads(blobs: Iterable[LayerBlob]) -> None:
    for blob in blobs:
        if isinstance(blob.blob, Download):
            blob.blob.stop()


def _close_opened(opening: Iterable[Future[LayerIndex]]) -> None:
    for future in opening:
        if future.done() and not future.cancelled() and future.exception() is None:
            os.close(future.result().file.fd)
