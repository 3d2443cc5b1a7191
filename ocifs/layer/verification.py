"""Proving a layer whose index somebody has published: all of its blob, and what the index says of it.

A blob of which parts are missing is fetched first. What is proven then is what indexing proves: the digest of the blob,
the diff ID of its tar stream, decoded by the very spans that reads use, and that the stream has the entries of the TOC.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from itertools import zip_longest

from ocifs.compression import MAX_SPAN
from ocifs.errors import InvalidImageError
from ocifs.layer.build import LayerBlob, open_layer_index
from ocifs.layer.chunked.verification import agrees
from ocifs.layer.index import LayerIndex
from ocifs.layer.layer import Layer
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.layer.span_cache import SpanCache
from ocifs.limits import DEFAULT_LIMITS
from ocifs.reader import FileReader
from ocifs.spec.digest import DiffID, Digest
from ocifs.store import Store
from ocifs.toc import ChunkReader, read_entries

_PIECE = 2 << 20
_MARK = "user.ocifs.proven"
"""An extended attribute of a published LayerIndex in the cache, which is open to nobody but its owner."""

Pause = Callable[[int], None]
"""Is told of so many bytes that were fetched or decoded, and may wait, or raise to end it all."""


def fetch_all(layer: Layer, pause: Pause) -> None:
    """Fetch what is missing of a layer's blob, in pieces of about 2 MiB.

    Raises:
        NotFoundError, RegistryError: It cannot be got.
        InvalidImageError: The registry gives other bytes.
    """
    blob, index = layer.blob, layer.index
    if not isinstance(blob, LazyBlob):
        return
    number = 0
    while number < index.span_count:
        if not blob.has(index, number) or blob.proven(index, number) is None:
            fetched, following = blob.run(index, number, _PIECE)
            pause(fetched)
            number = following
        else:
            pause(0)
            number += 1
    begin = index.stored_range(0)[0]
    offset, size = index.stored_range(index.span_count - 1)
    blob.fill(0, begin)
    blob.fill(offset + size, blob.size)


def mark_proven(layer: Layer) -> None:
    """Remember that a layer's index was proven, where the file system can: its owner may, and needs no path for it."""
    with contextlib.suppress(OSError):
        os.setxattr(layer.index.file.fd, _MARK, str(layer.index.summary.blob_digest).encode())


def is_marked(index: LayerIndex) -> bool:
    """Whether somebody has proven an index."""
    try:
        return os.getxattr(index.file.fd, _MARK) == str(index.summary.blob_digest).encode()
    except OSError:
        return False


def prove_blob(layer: Layer, pause: Pause) -> None:
    """Read all of a layer's blob, and hash it.

    Raises:
        NotFoundError, RegistryError: Some of it has to be fetched again, and cannot be got.
        InvalidImageError: It has another digest.
    """
    digest = Digest(layer.index.summary.blob_digest)
    found = _hashed(layer, digest, pause)
    if found != digest.hex and layer.index.summary.toc and isinstance(layer.blob, LazyBlob):
        # What lies between chunks has no digest: where a crash has left a gap, nothing has shown it before.
        for place in range(0, layer.blob.size, _PIECE):
            pause(len(layer.blob.fill(place, min(place + _PIECE, layer.blob.size))))
        found = _hashed(layer, digest, pause)
    if found != digest.hex:
        raise InvalidImageError(f"layer {digest}: its bytes have the digest {digest.algorithm}:{found}")


def _hashed(layer: Layer, digest: Digest, pause: Pause) -> str:
    hasher = digest.hasher()
    for offset in range(0, layer.blob.size, _PIECE):
        hasher.update(layer.blob.pread(_PIECE, offset))
        pause(0)
    return hasher.hexdigest()


def prove_index(layer: Layer, pause: Pause) -> bool:
    """Decode all of a layer, and hold it against its index; return whether that is as good as one made here.

    Raises:
        InvalidImageError: The index lies.
    """
    if layer.index.summary.toc:
        return _prove_toc(layer, pause)
    summary = layer.index.summary
    told = {Digest(each): Digest(each).hasher() for each in layer.index.diff_ids}
    private = Layer(layer.number, layer.index, layer.blob, SpanCache(0))

    def decoded() -> Iterator[bytes]:
        for number in range(layer.index.span_count):
            data = private.decode(number)
            for hasher in told.values():
                hasher.update(data)
            pause(0)
            yield data

    stream = ChunkReader(decoded())
    found = read_entries(stream, warn=lambda message: None)
    same = all(there == said for there, said in zip_longest(found, layer.index.entries()))
    stream.drain()
    for diff_id, hasher in told.items():
        if hasher.hexdigest() != diff_id.hex:
            raise InvalidImageError(
                f"layer {summary.blob_digest}: its index decodes to another tar stream than {diff_id}"
            )
    if not same:
        raise InvalidImageError(f"layer {summary.blob_digest}: its index has other entries than its tar stream")
    return True


def _prove_toc(layer: Layer, pause: Pause) -> bool:
    """Index the layer from its tar, and hold that against what was made of its TOC."""
    summary, blob = layer.index.summary, FileReader(layer.blob.fd, layer.blob.offset, layer.blob.size)
    index = open_layer_index(
        LayerBlob(Digest(summary.blob_digest), DiffID(Digest(summary.diff_id)), blob),
        Store(None),
        DEFAULT_LIMITS,
        lambda message: None,
        lambda digest, done, total: pause(0),
        low_memory=True,
    )
    try:
        return agrees(layer.index, Layer(layer.number, index, blob, SpanCache(2 * MAX_SPAN)), pause)
    finally:
        os.close(index.file.fd)
