"""Look up LayerIndexes for the layers of a registry image before any layer is downloaded.

They are in the store, or were published (`ocifs.indexes.selection`). This module only decides which sources to trust.
`ocifs.layer.verification` verifies a published index later, once the whole blob is cached.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from ocifs.blobs.source import Source
from ocifs.errors import InvalidImageError, OcifsError
from ocifs.layer.index import ChunkedIndex, LayerIndex, index_in, open_index
from ocifs.layer.index_format import KIND
from ocifs.layer.layer import Layer
from ocifs.limits import Limits
from ocifs.options import Options
from ocifs.sources.resolve import ImageLayer, ResolvedImage
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest
from ocifs.store import Store

if TYPE_CHECKING:
    from ocifs.indexes.candidate import Candidate

Key = tuple[Digest, Digest]
"""Digest of the blob and diff ID: an image may list one blob with two diff IDs."""


def key_of(layer: ImageLayer) -> Key:
    """Return the key that identifies a layer."""
    return layer.descriptor.digest, layer.diff_id


class FoundIndex(NamedTuple):
    """A LayerIndex that does not have to be built."""

    layer_index: LayerIndex
    published: str | None = None
    """Format and digest of the document that the index comes from, if it is not verified."""
    prefetch: tuple[tuple[int, int], ...] = ()
    """(first, last) spans to fetch first."""
    pack: Descriptor | None = None
    """The hot pack that was published with it, if it is not verified."""


def look_up_indexes(
    source: Source, resolved: ResolvedImage, options: Options, stack: ExitStack, *, by_digest: bool
) -> dict[Key, FoundIndex]:
    """Return the available LayerIndexes of registry layers; the daemon fetches such layers on demand.

    A registry that may decide what a tag means may also provide its index. A digest promises exact bytes, so an unbound
    index is not used for it unless the user allows it.

    Raises:
        InvalidImageError: The descriptor of a layer states another size than the blob has.
    """
    if not options.lazy or not source.is_remote:
        return {}
    known: dict[Key, FoundIndex] = {}
    missing = []
    for layer in resolved.layers:
        index = _verified(layer, options.store)
        if index is None:
            missing.append(layer)
            continue
        stack.callback(os.close, index.file.fd)
        if layer.diff_id in index.diff_ids:  # else the blob itself decides
            known[key_of(layer)] = FoundIndex(index)
    # A published index could hide what --strict or --toc verify have to report.
    if not missing or options.trust_index is False or options.strict or options.toc == "verify":
        return known
    bound = by_digest and options.trust_index is None
    return known | _select(source, resolved, missing, options, stack, bound=bound)


def _verified(layer: ImageLayer, store: Store) -> LayerIndex | None:
    """Return the LayerIndex that was built from a layer's blob, or verified against it.

    Raises:
        InvalidImageError: The descriptor states another size.
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


def _select(
    source: Source,
    resolved: ResolvedImage,
    layers: list[ImageLayer],
    options: Options,
    stack: ExitStack,
    *,
    bound: bool,
) -> dict[Key, FoundIndex]:
    """Return the LayerIndexes selected among the published ones."""
    from ocifs.indexes.candidate import LookupContext
    from ocifs.indexes.selection import providers, select_indexes
    from ocifs.layer.verified_mark import is_marked

    context = LookupContext(source, resolved, options.store, options.limits, stack)
    known = {}
    missing = {layer.descriptor.digest for layer in layers}
    selected = select_indexes(context, missing, options.warn, bound=bound, providers=providers(options.toc))
    for layer in layers:
        found = selected.get(layer.descriptor.digest)
        if (
            found is None or layer.diff_id not in found.layer_index.diff_ids
        ):  # an image may list one blob with two diff IDs
            continue
        published: str | None = str(found.candidate)
        index = found.layer_index
        options.tell(f"layer {layer.descriptor.digest}: index {published}")
        if is_marked(index):  # from now on it counts as built here
            if isinstance(index, ChunkedIndex):  # which does not describe the tar
                published = None
            elif (data := _whole(found.candidate, index)) is not None:
                published = None
                file = options.store.get(KIND, layer.descriptor.digest, lambda out: out.write(data))
                stack.callback(file.close)
                index = open_index(file)
        pack = None if published is None else found.candidate.pack
        known[key_of(layer)] = FoundIndex(index, published, found.prefetch, pack)
    return known


def _whole(candidate: "Candidate", index: LayerIndex) -> bytes | None:
    """Return all bytes of a marked index; None if they are not the published ones, or not all of them are cached.

    A power failure may keep the mark without the bytes, and another process may have written to a part of the index.
    """
    data = index.file.pread(index.file.size, 0)
    if candidate.is_index and Digest.of(data, candidate.digest.algorithm) != candidate.digest:
        return None
    return data


def verify_tocs(
    source: Source, resolved: ResolvedImage, layers: Sequence[Layer], options: Options
) -> Iterator[tuple[int, "Candidate", OcifsError | None]]:
    """Compare the TOCs inside layers with their tars: yield (number of the layer, its TOC, error or None).

    Each of `layers` has an index of its tar.
    """
    from ocifs.indexes.candidate import LookupContext
    from ocifs.indexes.chunked import promised_tocs

    with ExitStack() as closing:
        context = LookupContext(source, resolved, Store(None), options.limits, closing)
        for candidate in promised_tocs(context):
            (layer, *_) = (each for each in layers if each.index.summary.blob_digest == candidate.layer)
            try:
                _verify_toc(candidate, layer, options.limits)
            except OcifsError as error:
                yield layer.number, candidate, error
            else:
                yield layer.number, candidate, None


def _verify_toc(candidate: "Candidate", layer: Layer, limits: Limits) -> None:
    from ocifs.layer.chunked.verification import agrees

    try:
        index = candidate.open()
    except OcifsError as error:
        raise type(error)(f"layer {candidate.layer}: {error}") from None
    assert isinstance(index, ChunkedIndex)  # noqa: S101 - the candidate is a TOC
    agrees(index, layer, lambda size: None, limits)


def refuse_false_tocs(source: Source, resolved: ResolvedImage, layers: Sequence[Layer], options: Options) -> None:
    """Verify the TOCs inside layers.

    Raises:
        InvalidImageError: A TOC differs from the tar.
        UnsupportedError, LimitError: A TOC cannot be read.
    """
    for _, candidate, error in verify_tocs(source, resolved, layers, options):
        if error is not None:
            raise error
        options.tell(f"layer {candidate.layer}: index {candidate} agrees with the tar")
