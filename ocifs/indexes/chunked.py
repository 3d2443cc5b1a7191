"""Offers made of the TOC that a layer carries: eStargz and zstd:chunked.

A TOC to whose digest an annotation of the layer's descriptor commits is bound by the manifest. Where no annotation
tells of one, the last bytes of the blob may; who wants that has to ask for it, since it costs a request for each layer.
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
from ocifs.layer.index import LayerIndex, Summary, encode_tail, pack_u64
from ocifs.layer.verification import is_marked
from ocifs.limits import Limits
from ocifs.reader import FileReader
from ocifs.sources.resolve import ImageLayer
from ocifs.spec.digest import Digest
from ocifs.store import Writer
from ocifs.toc import Entry

_TAIL = 128 << 10
"""Bytes that are fetched of the end of a blob: the footer, and with a small TOC that as well."""


class FoundToc(NamedTuple):
    """A TOC that was found in a blob."""

    place: toc_location.TocLocation
    digest: Digest
    """By which descriptors name it."""
    document: bytes
    """Its JSON."""
    member: tuple[Entry, bytes] | None = None
    """Of an eStargz: its entry in the tar, and the tar from the beginning of its member on."""


def carried(read: Read, layer: ImageLayer, promise: toc_location.Promise | None, limits: Limits) -> FoundToc:
    """Return the TOC of a layer, whose digest is the promised one, if one is promised.

    Raises:
        InvalidImageError: There is none, or another one.
        UnsupportedError: It is in another image, or of an unknown type.
        LimitError: It is larger than a TOC may be.
    """
    size = layer.descriptor.size
    begin, tail = size, b""
    if promise is None or promise.place is None:
        begin = max(0, size - _TAIL)
        tail = read(begin, size)
    told = promise.place if promise else None
    place = toc_location.check(
        told or toc_location.footed(tail[-toc_location.FOOTER :], size, layer.compression), size, limits
    )
    end = place.offset + place.size
    before = read(place.offset, min(begin, end)) if place.offset < begin else b""
    stored = before + tail[max(place.offset - begin, 0) : max(end - begin, 0)]
    return _unpacked(place, stored, promise.digest if promise else None, limits)


def _unpacked(place: toc_location.TocLocation, stored: bytes, promised: Digest | None, limits: Limits) -> FoundToc:
    if place.format == "zstd:chunked":
        digest = _digest(stored, promised)  # before anything decodes it
        return FoundToc(place, digest, unpacked_zstd(stored, place, limits))
    entry, tar = unpacked_tar(stored, limits)
    document = tar[entry.offset : entry.offset + entry.stored]
    return FoundToc(place, _digest(document, promised), document, (entry, tar))


def _digest(data: bytes, promised: Digest | None) -> Digest:
    digest = Digest.of(data, promised.algorithm if promised else "sha256")
    if promised not in {None, digest}:
        raise InvalidImageError(f"its TOC has another digest than {promised}, which its descriptor promises")
    return digest


def table_of(found: FoundToc, limits: Limits) -> ChunkTable:
    """Return what a TOC makes of its layer. Raises InvalidImageError, UnsupportedError, LimitError."""
    place = found.place
    table = make_table(items_of(found.document, limits), place.offset, limits)
    if found.member is not None:
        table = with_file(table, *found.member, place.offset, place.offset + place.size)
    return table


def write_index(out: Writer, table: ChunkTable, layer: ImageLayer, toc: Digest) -> None:
    """Write the LayerIndex of a layer that has a TOC."""
    chunks = table.chunks or [TocChunk(0, 0, 0, 0, hashlib.sha256().digest())]  # no bytes are still one span
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


def promised(place: LookupContext) -> Iterator[Candidate]:
    """Yield an offer for each TOC that the descriptor of a layer promises, whatever else is known of the layer."""
    for layer in place.layers().values():
        name = toc_location.FORMATS.get(layer.compression)
        if name is None:
            continue
        try:
            promise = toc_location.promised(layer.descriptor.annotations, layer.compression)
        except OcifsError as error:
            yield _refused(name, layer, error)
        else:
            if promise is not None:
                yield _offer(place, layer, promise)


def _find(name: toc_location.Format, place: LookupContext) -> Iterator[list[Candidate]]:
    """Give what the descriptors of layers promise, as long as it is of use."""
    layers = place.layers()
    offers = [offer for offer in promised(place) if offer.format == name]
    yield [offer for offer in offers if not _is_superseded(place, layers[offer.layer], offer.digest)]


ESTARGZ = Provider("estargz", can_bind=True, find=partial(_find, "estargz"))
ZSTD_CHUNKED = Provider("zstd:chunked", can_bind=True, find=partial(_find, "zstd:chunked"))


PROVIDERS = (ESTARGZ, ZSTD_CHUNKED)


def _look(place: LookupContext) -> Iterator[list[Candidate]]:
    """Give what is found at the end of blobs."""
    offers = []
    for layer in place.layers().values():
        if layer.compression in toc_location.FORMATS:
            with suppress(InvalidImageError, UnsupportedError, LimitError):
                if toc_location.promised(layer.descriptor.annotations, layer.compression) is not None:
                    continue
                found = carried(place.reader(layer), layer, None, place.limits)
                if not _is_superseded(place, layer, found.digest):
                    offers.append(_offer(place, layer, toc_location.Promise(found.place.format, found.digest), found))
    yield offers


FOOTERS = Provider("footer", can_bind=False, find=_look)


def _offer(
    place: LookupContext, layer: ImageLayer, promise: toc_location.Promise, found: FoundToc | None = None
) -> Candidate:
    """Return an offer of what is promised, or was found."""

    def build(out: Writer) -> None:
        toc = found or carried(place.reader(layer), layer, promise, place.limits)
        write_index(out, table_of(toc, place.limits), layer, promise.digest)
        place.check(LayerIndex(FileReader(out.fd, 0, out.size)), layer)

    told = found.place if found else promise.place
    return Candidate(
        layer=layer.descriptor.digest,
        format=promise.format,
        digest=promise.digest,
        size=told.size if told else None,
        bound=found is None,
        open=lambda: place.converted(layer, promise.digest, build),
        prefetch=_first,
    )


def _refused(name: toc_location.Format, layer: ImageLayer, error: OcifsError) -> Candidate:
    """Return an offer that comes to nothing, so that it is told."""

    def refuse() -> LayerIndex:
        raise error

    return Candidate(layer.descriptor.digest, name, layer.descriptor.digest, None, bound=True, open=refuse)


def _first(index: LayerIndex) -> Runs:
    return ((0, index.summary.first - 1),) if index.summary.first else ()


def _is_superseded(place: LookupContext, layer: ImageLayer, toc: Digest) -> bool:
    """Whether all of the blob is here, and its TOC has not turned out to be as good as the tar."""
    if not place.source.is_cached(layer.descriptor):
        return False
    index = place.made(layer, toc)
    return index is None or not is_marked(index)
