"""Open the layers of an image: layers without an index are indexed in parallel, the largest first."""

import os
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial

from ocifs.blobs.download import Blob, in_file, stop_downloads, stoppable, with_verified_bytes
from ocifs.blobs.source import Source
from ocifs.errors import OcifsError, UnsupportedError
from ocifs.indexes.gzidx import match_gzidx
from ocifs.indexes.lookup import FoundIndex, Key, key_of
from ocifs.layer.build import LayerBlob, open_layer_index
from ocifs.layer.index import LayerIndex
from ocifs.layer.index_format import KIND
from ocifs.layer.layer import Layer
from ocifs.layer.span_cache import SpanCache
from ocifs.options import Options, ignore
from ocifs.pool import Pool
from ocifs.sources.magic import sniff_layer
from ocifs.sources.resolve import ResolvedImage
from ocifs.spec.digest import Digest


def open_layers(
    source: Source,
    resolved: ResolvedImage,
    known: dict[Key, FoundIndex],
    options: Options,
    stack: ExitStack,
) -> list[Layer]:
    """Open the layers; those that are not in `known` are read from front to end and indexed."""
    points = match_gzidx(options.gzidx, resolved.layers) if options.gzidx else {}
    for digest in points:
        if options.store.has(KIND, digest):
            options.warn(f"layer {digest} is indexed already: its GZIDX file is not used")
    decoded = options.limits.decoded_total()
    unindexed = [layer for layer in resolved.layers if key_of(layer) not in known]
    blobs = {layer.descriptor.digest: source.open(layer.descriptor) for layer in unindexed}
    to_index = [
        LayerBlob(digest, layer.diff_id, blobs[digest], points.get(digest), decoded, quick=options.quick)
        for layer in unindexed
        for digest in [layer.descriptor.digest]
    ]
    for each in to_index:
        if each.gzidx is not None and (codec := sniff_layer(each.blob, f"layer {each.digest}")) != "gzip":
            raise UnsupportedError(f"layer {each.digest} is {codec}, not gzip: leave out its GZIDX file")
    indexes = iter(_open_indexes(to_index, blobs, options, stack))
    cache = SpanCache(options.span_cache)
    layers = []
    for number, layer in enumerate(resolved.layers):
        if (found := known.get(key_of(layer))) is None:
            layers.append(Layer(number, next(indexes), in_file(blobs[layer.descriptor.digest]), cache))
        else:
            blob = source.open_lazily(layer.descriptor)
            layers.append(Layer(number, found.layer_index, blob, cache, found.published))
            layers[-1].prefetch = found.prefetch
    if not options.strict:  # --strict refuses all warnings together, later
        _warn_of_labels(resolved, layers, options)
    return layers


def _warn_of_labels(resolved: ResolvedImage, layers: list[Layer], options: Options) -> None:
    """Warn of each blob whose media type is wrong, whether or not its index is new."""
    warnings = {
        f"layer {layer.descriptor.digest}: {message}": None
        for layer, opened in zip(resolved.layers, layers, strict=True)
        for message in opened.index.mislabelled(layer.compression)
    }
    for warning in warnings:
        options.warn(warning)


def _open_indexes(
    layers: list[LayerBlob], blobs: dict[Digest, Blob], options: Options, stack: ExitStack
) -> list[LayerIndex]:
    """Open or build the index of each layer, the largest first, one thread per processor."""
    stop = threading.Event()
    warn = ignore if options.strict else options.warn

    def progress(layer: Digest, done: int, total: int) -> None:
        if stop.is_set():
            raise OcifsError("interrupted")
        options.progress(layer, done, total)

    distinct = {(layer.digest, layer.diff_id): layer for layer in layers}
    largest_first = sorted(distinct, key=lambda key: -distinct[key].blob.size)
    open_index = partial(
        open_layer_index,
        store=options.store,
        limits=options.limits,
        warn=warn,
        progress=progress,
        low_memory=options.low_memory,
    )

    def open_one(layer: LayerBlob) -> LayerIndex:
        return with_verified_bytes(
            blobs[layer.digest], lambda blob: open_index(layer._replace(blob=stoppable(blob, stop)))
        )

    with Pool(1 if options.low_memory else os.cpu_count() or 1) as threads, ExitStack() as undo:
        opening: dict[tuple[Digest, Digest], Future[LayerIndex]] = {}
        undo.callback(_close_opened, opening.values())
        undo.callback(threads.shutdown, cancel_futures=True)
        undo.callback(stop_downloads, blobs.values())
        undo.callback(stop.set)
        for key in largest_first:
            opening[key] = threads.submit(open_one, distinct[key])
        indexes = {key: future.result() for key, future in opening.items()}
        undo.pop_all()
    for index in indexes.values():
        stack.callback(os.close, index.file.fd)
    return [indexes[layer.digest, layer.diff_id] for layer in layers]


def _close_opened(opening: Iterable[Future[LayerIndex]]) -> None:
    for future in opening:
        if future.done() and not future.cancelled() and future.exception() is None:
            os.close(future.result().file.fd)
