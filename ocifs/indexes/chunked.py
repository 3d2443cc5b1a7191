"""Candidates from the TOC inside a layer: eStargz and zstd:chunked.

If an annotation of the layer's descriptor commits to the digest of the TOC, the manifest binds it. Without an
annotation, the last bytes of the blob may locate a TOC. Looking there is optional, because it costs a request for each
layer.
"""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from ocifs.errors import InvalidImageError, LimitError, OcifsError, UnsupportedError
from ocifs.indexes.candidate import Candidate, LookupContext, Provider, Read, Runs
from ocifs.layer.chunked import toc_location
from ocifs.layer.chunked.document import items_of, unpacked_tar, unpacked_zstd
from ocifs.layer.chunked.table import ChunkTable, TocChunk, make_table, with_file
from ocifs.layer.index import LayerIndex, open_index
from ocifs.layer.index_format import Summary, encode_tail, pack_u64
from ocifs.layer.verified_mark import is_marked
from ocifs.limits import Limits
from ocifs.reader import FileReader
from ocifs.sources.resolve import ImageLayer
from ocifs.spec.digest import Digest
from ocifs.store import Writer
from ocifs.toc import Entry

_TAIL = 128 << 10
"""Bytes to fetch from the end of a blob: the footer, and a small TOC with it."""


class FoundToc(NamedTuple):
    """A TOC that was found in a blob."""

    location: toc_location.TocLocation
    digest: Digest
    """The digest that descriptors use."""
    document: bytes
    """Its JSON."""
    member: tuple[Entry, bytes] | None = None
    """For eStargz: its tar entry, and the decompressed tar from the start of its member."""


def read_toc(read: Read, layer: ImageLayer, promise: toc_location.Promise | None, limits: Limits) -> FoundToc:
    """Return the TOC of a layer; if a digest is promised, the TOC must have it.

    Raises:
        InvalidImageError: The layer has no TOC, or another one.
        UnsupportedError: It is in another image, or of an unknown type.
        LimitError: It is larger than a TOC may be.
    """
    size = layer.descriptor.size
    begin, tail = size, b""
    if promise is None or promise.location is None:
        begin = max(0, size - _TAIL)
        tail = read(begin, size)
    promised_location = promise.location if promise else None
    location = toc_location.check(
        promised_location or toc_location.footed(tail[-toc_location.FOOTER :], size, layer.compression), size, limits
    )
    end = location.offset + location.size
    before = read(location.offset, min(begin, end)) if location.offset < begin else b""
    stored = before + tail[max(location.offset - begin, 0) : max(end - begin, 0)]
    return _unpacked(location, stored, promise.digest if promise else None, limits)


def _unpacked(location: toc_location.TocLocation, stored: bytes, promised: Digest | None, limits: Limits) -> FoundToc:
    if location.format == "zstd:chunked":
        digest = _digest(stored, promised)  # before any decoding
        return FoundToc(location, digest, unpacked_zstd(stored, location, limits))
    entry, tar = unpacked_tar(stored, limits)
    document = tar[entry.offset : entry.offset + entry.stored]
    return FoundToc(location, _digest(document, promised), document, (entry, tar))


def _digest(data: bytes, promised: Digest | None) -> Digest:
    digest = Digest.of(data, promised.algorithm if promised else "sha256")
    if promised not in {None, digest}:
        raise InvalidImageError(f"its TOC has another digest than {promised}, which its descriptor promises")
    return digest


def table_of(found: FoundToc, limits: Limits) -> ChunkTable:
    """Return the chunk table of a layer from its TOC. Raises InvalidImageError, UnsupportedError, LimitError."""
    location = found.location
    table = make_table(items_of(found.document, limits), location.offset, limits)
    if found.member is not None:
        table = with_file(table, *found.member, location.offset, location.offset + location.size)
    return table


def write_index(out: Writer, table: ChunkTable, layer: ImageLayer, toc: Digest) -> None:
    """Write the LayerIndex of a layer with a TOC."""
    chunks = table.chunks or [TocChunk(0, 0, 0, 0, hashlib.sha256().digest())]  # an empty stream still has one span
    summary = Summary(
        blob_digest=str(layer.descriptor.digest),
        blob_size=layer.descriptor.size,
        diff_id=str(layer.diff_id),
        size=table.size,
        codec=layer.compression,
        reframed=False,
        entries=len(table.entries),
        starts=pack_u64([*(chunk.start for chunk in chunks), table.size]),
        offsets=pack_u64([*(chunk.offset for chunk in chunks), table.end]),
        bits=bytes(len(chunks) + 1),
        windows=b"",
        digests=b"".join(chunk.digest for chunk in chunks),
        warnings=(),
        toc=str(toc),
        lengths=pack_u64(chunk.length for chunk in chunks),
        skips=pack_u64(chunk.skip for chunk in chunks),
        first=table.first,
    )
    out.write(encode_tail(table.entries, summary, 0))


def promised_tocs(context: LookupContext) -> Iterator[Candidate]:
    """Yield a candidate for each TOC that a layer's descriptor promises, whether or not the layer is indexed."""
    for layer in context.layers().values():
        name = toc_location.FORMATS.get(layer.compression)
        if name is None:
            continue
        try:
            promise = toc_location.promised(layer.descriptor.annotations, layer.compression)
        except OcifsError as error:
            yield _failing(name, layer, error)
        else:
            if promise is not None:
                yield _candidate(context, layer, promise)


def _find_promised(name: toc_location.Format, context: LookupContext) -> Iterator[list[Candidate]]:
    """Yield the TOCs that layers' descriptors promise, unless the whole blob is better."""
    layers = context.layers()
    candidates = [candidate for candidate in promised_tocs(context) if candidate.format == name]
    yield [
        candidate for candidate in candidates if not _is_superseded(context, layers[candidate.layer], candidate.digest)
    ]


ESTARGZ = Provider("estargz", can_bind=True, find=partial(_find_promised, "estargz"))
ZSTD_CHUNKED = Provider("zstd:chunked", can_bind=True, find=partial(_find_promised, "zstd:chunked"))


PROVIDERS = (ESTARGZ, ZSTD_CHUNKED)


def _find_footers(context: LookupContext) -> Iterator[list[Candidate]]:
    """Yield the TOCs found at the ends of blobs."""
    candidates = []
    for layer in context.layers().values():
        if layer.compression in toc_location.FORMATS:
            with suppress(InvalidImageError, UnsupportedError, LimitError):
                if toc_location.promised(layer.descriptor.annotations, layer.compression) is not None:
                    continue
                found = read_toc(context.reader(layer), layer, None, context.limits)
                if not _is_superseded(context, layer, found.digest):
                    candidates.append(
                        _candidate(context, layer, toc_location.Promise(found.location.format, found.digest), found)
                    )
    yield candidates


FOOTERS = Provider("footer", can_bind=False, find=_find_footers)


def _candidate(
    context: LookupContext, layer: ImageLayer, promise: toc_location.Promise, found: FoundToc | None = None
) -> Candidate:
    """Return a candidate for a promised or found TOC."""

    def build(out: Writer) -> None:
        toc = found or read_toc(context.reader(layer), layer, promise, context.limits)
        write_index(out, table_of(toc, context.limits), layer, promise.digest)
        context.check(open_index(FileReader(out.fd, 0, out.size)), layer)

    location = found.location if found else promise.location
    return Candidate(
        layer=layer.descriptor.digest,
        format=promise.format,
        digest=promise.digest,
        size=location.size if location else None,
        bound=found is None,
        open=lambda: context.converted(layer, promise.digest, build),
        prefetch=_before_landmark,
    )


def _failing(name: toc_location.Format, layer: ImageLayer, error: OcifsError) -> Candidate:
    """Return a candidate that fails to open, so that the user sees the error."""

    def refuse() -> LayerIndex:
        raise error

    return Candidate(layer.descriptor.digest, name, layer.descriptor.digest, None, bound=True, open=refuse)


def _before_landmark(index: LayerIndex) -> Runs:
    return ((0, index.summary.first - 1),) if index.summary.first else ()


def _is_superseded(context: LookupContext, layer: ImageLayer, toc: Digest) -> bool:
    """Whether the whole blob is cached, and its TOC was not verified to be as exact as the tar."""
    if not context.source.is_cached(layer.descriptor):
        return False
    index = context.converted_before(layer, toc)
    return index is None or not is_marked(index)
