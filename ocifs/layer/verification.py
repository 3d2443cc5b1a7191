"""Verify a layer against its whole blob: the blob's digest, the diff ID, and the entries of its LayerIndex.

`ocifs verify` and the background job of a mount share this module. It decodes a layer through the same spans as reads
do. The background job first fetches the missing parts of a blob. Success upgrades a published index: it counts as one
that was built here.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest

from ocifs.compression import MAX_SPAN
from ocifs.errors import InvalidImageError
from ocifs.layer.build import LayerBlob, open_layer_index
from ocifs.layer.chunked.verification import agrees
from ocifs.layer.index import ChunkedIndex, LayerIndex
from ocifs.layer.layer import Layer
from ocifs.layer.lazy_blob import LazyBlob, Spans
from ocifs.layer.span_cache import SpanCache
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.reader import FileReader, ReaderAt
from ocifs.spec.digest import DiffID, Digest
from ocifs.store import Store
from ocifs.toc import ChunkReader, read_entries

_PIECE = 2 << 20
Pause = Callable[[int], None]
"""Gets the number of bytes just fetched, 0 for local work. It may wait, or raise to stop the verification."""


def digest_blob(blob: ReaderAt, algorithm: Digest, done: Callable[[int], None]) -> Digest:
    """Read a whole blob and return its digest, with the algorithm of another digest; `done` gets the bytes read."""
    hasher = algorithm.hasher()
    for offset in range(0, blob.size, _PIECE):
        data = blob.pread(_PIECE, offset)
        hasher.update(data)
        done(len(data))
    return Digest(f"{algorithm.algorithm}:{hasher.hexdigest()}")


def decode_layer(
    layer: Layer, digests: Iterable[str], done: Callable[[int], None], limits: Limits = DEFAULT_LIMITS
) -> tuple[dict[str, Digest], bool]:
    """Decode all spans of a layer; `done` gets the stored bytes read.

    Return the digests of its tar stream by algorithm, for the algorithms of `digests`, and whether the stream has the
    entries of the index. Raises the errors of reading the layer and its tar headers.
    """
    hashers = {algorithm: hashlib.new(algorithm) for algorithm in {Digest(each).algorithm for each in digests}}

    def decoded() -> Iterator[bytes]:
        for number, data in enumerate(layer.stream()):
            for hasher in hashers.values():
                hasher.update(data)
            done(layer.index.stored_range(number)[1])
            yield data

    stream = ChunkReader(decoded())
    entries = read_entries(stream, limits=limits, warn=lambda message: None)
    has_entries = all(entry == indexed for entry, indexed in zip_longest(entries, layer.index.entries()))
    stream.drain()
    return {each: Digest(f"{each}:{hasher.hexdigest()}") for each, hasher in hashers.items()}, has_entries


def fetch_all(layer: Layer, pause: Pause) -> None:
    """Fetch the missing parts of a layer's blob, in pieces of about 2 MiB.

    Raises:
        NotFoundError, RegistryError: They cannot be fetched.
        InvalidImageError: The registry returns other bytes.
    """
    if isinstance(layer.blob, LazyBlob):
        _fetch_spans(layer.blob, layer.index, layer.blob.size, pause)


def fetch_index(index: LayerIndex, pause: Pause) -> LazyBlob | None:
    """Fetch the missing windows of a published index, and verify the whole; return its file if it was partial.

    Raises:
        NotFoundError, RegistryError: They cannot be fetched.
        InvalidImageError: The index has another digest than the artifact states.
    """
    file = index.file
    if not isinstance(file, LazyBlob):
        return None
    _fetch_spans(file, index.windows.groups, index.data_size, pause)
    digest = Digest(file.origin().digest)
    found = digest_blob(file, digest, lambda size: pause(0))
    if found != digest:
        raise InvalidImageError(f"{index.windows.groups.name}: its bytes have the digest {found}, not {digest}")
    return file


def _fetch_spans(blob: LazyBlob, spans: Spans, end: int, pause: Pause) -> None:
    """Fetch the missing spans of a blob, and the bytes before and behind all spans, up to `end`."""
    number = 0
    while number < spans.span_count:
        if not blob.has(spans, number) or blob.verified(spans, number) is None:
            fetched, next_span = blob.run(spans, number, _PIECE)
            pause(fetched)
            number = next_span
        else:
            pause(0)
            number += 1
    begin, last_end = 0, 0
    if spans.span_count:
        begin = spans.stored_range(0)[0]
        last_end = sum(spans.stored_range(spans.span_count - 1))
    blob.fill(0, begin)
    blob.fill(last_end, end)


def verify_blob(layer: Layer, pause: Pause) -> None:
    """Read a layer's whole blob, and compare its digest.

    Raises:
        NotFoundError, RegistryError: Parts have to be fetched again, and cannot be.
        InvalidImageError: It has another digest.
    """
    digest = Digest(layer.index.summary.blob_digest)
    found = digest_blob(layer.blob, digest, lambda size: pause(0))
    if found != digest and isinstance(layer.index, ChunkedIndex) and isinstance(layer.blob, LazyBlob):
        # Gaps between chunks have no digest, so a gap that a crash left empty shows only now.
        for offset in range(0, layer.blob.size, _PIECE):
            pause(len(layer.blob.fill(offset, min(offset + _PIECE, layer.blob.size))))
        found = digest_blob(layer.blob, digest, lambda size: pause(0))
    if found != digest:
        raise InvalidImageError(f"layer {digest}: its bytes have the digest {found}")


def verify_index(layer: Layer, pause: Pause) -> bool:
    """Compare a layer's index with its whole stream; return whether it equals one that is built here.

    Raises:
        InvalidImageError: The index is wrong.
    """
    index = layer.index
    if isinstance(index, ChunkedIndex):
        return _verify_toc(layer, index, pause)
    digests, has_entries = decode_layer(layer, index.diff_ids, lambda size: pause(0))
    for diff_id in map(Digest, index.diff_ids):
        if digests[diff_id.algorithm] != diff_id:
            raise InvalidImageError(
                f"layer {index.summary.blob_digest}: its index decodes to another tar stream than {diff_id}"
            )
    if not has_entries:
        raise InvalidImageError(f"layer {index.summary.blob_digest}: its index has other entries than its tar stream")
    return True


def _verify_toc(layer: Layer, claimed: ChunkedIndex, pause: Pause) -> bool:
    """Index the layer's tar, and compare that index with the one from the TOC."""
    summary, blob = layer.index.summary, layer.blob
    if isinstance(blob, LazyBlob):  # all of it is there
        blob = FileReader(blob.fd, blob.offset, blob.size)
    index = open_layer_index(
        LayerBlob(Digest(summary.blob_digest), DiffID(Digest(summary.diff_id)), blob),
        Store(None),
        DEFAULT_LIMITS,
        lambda message: None,
        lambda digest, done, total: pause(0),
        low_memory=True,
    )
    try:
        return agrees(claimed, Layer(layer.number, index, blob, SpanCache(2 * MAX_SPAN)), pause)
    finally:
        os.close(index.file.fd)
