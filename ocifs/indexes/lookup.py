"""What is known of the layers of an image in a registry before any of their bytes are here: their LayerIndexes.

They are in the store already, or somebody has published them (`offers`). It decides whom to believe, and no more: that
what is published is true is proven later, by whoever has all of the blob.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from ocifs.blobs.source import Source
from ocifs.errors import InvalidImageError, OcifsError
from ocifs.layer.index import KIND, LayerIndex, index_in
from ocifs.layer.layer import Layer
from ocifs.limits import Limits
from ocifs.options import Options
from ocifs.sources.resolve import ImageLayer, ResolvedImage
from ocifs.spec.digest import Digest
from ocifs.store import Store

if TYPE_CHECKING:
    from ocifs.indexes.candidate import Candidate

Key = tuple[Digest, Digest]
"""Digest of the blob, and the diff ID: one blob may be given two."""


def key_of(layer: ImageLayer) -> Key:
    """Return what tells a layer from all others."""
    return layer.descriptor.digest, layer.diff_id


class FoundIndex(NamedTuple):
    """A LayerIndex that needs not be made."""

    layer_index: LayerIndex
    published: str | None = None
    """Format and digest of what it comes from, if it is not proven."""
    prefetch: tuple[tuple[int, int], ...] = ()
    """Which spans to fetch first."""


def look_up_indexes(
    source: Source, resolved: ResolvedImage, options: Options, stack: ExitStack, *, by_digest: bool
) -> dict[Key, FoundIndex]:
    """Return the LayerIndexes that are known of layers in a registry: what is read of these is fetched.

    A registry that is trusted for what a tag means is trusted for the index that it has of it; a digest is to be held
    against nothing but bytes, unless the user says otherwise.

    Raises:
        InvalidImageError: The descriptor of a layer gives its blob another size than the blob has.
    """
    if not options.lazy or not source.is_remote:
        return {}
    known: dict[Key, FoundIndex] = {}
    missing = []
    for layer in resolved.layers:
        index = _proven(layer, options.store)
        if index is None:
            missing.append(layer)
            continue
        stack.callback(os.close, index.file.fd)
        if layer.diff_id in index.diff_ids:  # else the blob itself has to tell
            known[key_of(layer)] = FoundIndex(index)
    # What is odd about a layer, its index might conceal.
    if not missing or options.trust_index is False or options.strict or options.toc == "verify":
        return known
    bound = by_digest and options.trust_index is None
    return known | _offered(source, resolved, missing, options, stack, bound=bound)


def _proven(layer: ImageLayer, store: Store) -> LayerIndex | None:
    """Return the LayerIndex that was made of the blob of a layer, or was proven.

    Raises:
        InvalidImageError: The descriptor gives the blob another size.
    """
    descriptor = layer.descriptor
    file = store.load(KIND, descriptor.digest)
    index = None if file is None else index_in(file, descriptor.digest)
    if index is not None and index.summary.blob_size != descriptor.size:
        os.close(index.file.fd)
        raise InvalidImageError(
            f"layer {descriptor.digest} has {index.summary.blob_size} bytes, its descriptor says {descriptor.size}: "
            "the manifest is wrong"
        )
    return index


def _offered(
    source: Source,
    resolved: ResolvedImage,
    layers: list[ImageLayer],
    options: Options,
    stack: ExitStack,
    *,
    bound: bool,
) -> dict[Key, FoundIndex]:
    """Return the LayerIndexes that are taken of those that are published."""
    from ocifs.indexes.candidate import LookupContext
    from ocifs.indexes.selection import providers, select_indexes
    from ocifs.layer.verification import is_marked

    place = LookupContext(source, resolved, options.store, options.limits, stack)
    known = {}
    wanted = {layer.descriptor.digest for layer in layers}
    taken = select_indexes(place, wanted, options.warn, bound=bound, providers=providers(options.toc))
    for layer in layers:
        found = taken.get(layer.descriptor.digest)
        if found is None or layer.diff_id not in found.layer_index.diff_ids:  # an image may give one blob two
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
        known[key_of(layer)] = FoundIndex(index, published, found.prefetch)
    return known


def verify_tocs(
    source: Source, resolved: ResolvedImage, layers: Sequence[Layer], options: Options
) -> Iterator[tuple[int, "Candidate", OcifsError | None]]:
    """Compare the TOCs that layers carry with their tars: yield (number of the layer, its TOC, what is wrong or None).

    Each of `layers` has an index of its tar.
    """
    from ocifs.indexes.candidate import LookupContext
    from ocifs.indexes.chunked import promised

    with ExitStack() as closing:
        place = LookupContext(source, resolved, Store(None), options.limits, closing)
        for offer in promised(place):
            (layer, *_) = (each for each in layers if each.index.summary.blob_digest == offer.layer)
            try:
                _verify_toc(offer, layer, options.limits)
            except OcifsError as error:
                yield layer.number, offer, error
            else:
                yield layer.number, offer, None


def _verify_toc(offer: "Candidate", layer: Layer, limits: Limits) -> None:
    from ocifs.layer.chunked.verification import agrees

    try:
        index = offer.open()
    except OcifsError as error:
        raise type(error)(f"layer {offer.layer}: {error}") from None
    agrees(index, layer, lambda size: None, limits)


def refuse_false_tocs(source: Source, resolved: ResolvedImage, layers: Sequence[Layer], options: Options) -> None:
    """Verify the TOCs that layers carry.

    Raises:
        InvalidImageError: One shows something else than the tar.
        UnsupportedError, LimitError: One cannot be read.
    """
    for _, offer, error in verify_tocs(source, resolved, layers, options):
        if error is not None:
            raise error
        options.tell(f"layer {offer.layer}: index {offer} says what the tar does")
