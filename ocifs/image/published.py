"""LayerIndexes that travel with an image: an artifact beside its manifest, in a registry or a layout.

The artifact's layers are LayerIndexes as the store keeps them, each under the digest of the blob it is of. One that was
published is held against every rule that it could break, but that it tells the truth of the blob only the whole blob
can show; so what is built of it is kept apart from what was proven. Tree images are not published: the kernel mounts
them, and takes none but our own.
"""

from typing import NamedTuple

import msgspec

from ocifs.errors import InvalidImageError, UnsupportedError
from ocifs.layer.index import KIND, LayerIndex
from ocifs.limits import Limits
from ocifs.reader import BytesReader, FileReader
from ocifs.sources.referrers import Content, Referrers
from ocifs.sources.resolve import Layer, ResolvedImage
from ocifs.sources.source import Source, read_document
from ocifs.spec.artifact import EMPTY, EMPTY_CONFIG, Artifact, encode_artifact, parse_artifact
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest
from ocifs.spec.document import decode
from ocifs.spec.mediatypes import OCI_MANIFEST
from ocifs.toc.check import check_entries

ARTIFACT_TYPE = "application/vnd.ocifs.layer-indexes.v1"
INDEX_TYPE = f"application/vnd.ocifs.layer-index.v{KIND.version}"
_PREFETCH_TYPE = "application/vnd.amazon.soci.prefetch.v1+json"
_LAYER = "vnd.ocifs.layer.digest"
_LAYER_SIZE = "vnd.ocifs.layer.size"

_MAX_INDEX = 1 << 30
_ENTRY = 64
"""Bytes of an entry in a TOC, as few as they may be on average where there are very many."""


Profile = dict[str, list[tuple[int, int]]]
"""By the digest of a layer: (first, last) spans that whoever starts wants, in order."""


class _Run(msgspec.Struct, frozen=True):
    start_span: int
    end_span: int


class _Prefetch(msgspec.Struct, frozen=True):
    """What SOCI calls a prefetch artifact; its spans are those of the LayerIndex beside it."""

    version: str
    prefetch_spans: tuple[_Run, ...] = ()


class PublishedIndex(NamedTuple):
    """A LayerIndex in an artifact."""

    layer: Digest
    """The blob that it says to be of."""
    descriptor: Descriptor
    prefetch: Descriptor | None = None
    """Which spans to fetch first."""


def referrers_of(source: Source, name: str) -> Referrers:
    """Return what can be asked for artifacts.

    Raises:
        UnsupportedError: The source has no place for them.
    """
    inner = getattr(source, "source", source)
    if not isinstance(inner, Referrers):
        raise UnsupportedError(f"{name}: indexes are kept in registries and layout directories only")
    return inner


def make_artifact(
    resolved: ResolvedImage, indexes: list[LayerIndex], profile: Profile | None = None
) -> tuple[Content, list[Content]]:
    """Return the manifest of an artifact with the indexes of an image, and its blobs.

    A reframed one is left out: it is a copy of its layer.
    """
    contents: dict[tuple[str, str], Content] = {}
    for layer, index in zip(resolved.layers, indexes, strict=True):
        if not index.summary.reframed:
            data = index.file.pread(index.file.size, 0)
            descriptor = Descriptor(
                media_type=INDEX_TYPE,
                digest=Digest.of(data),
                size=len(data),
                annotations={_LAYER: str(layer.descriptor.digest), _LAYER_SIZE: str(layer.descriptor.size)},
            )
            contents[layer.descriptor.digest, "index"] = Content(descriptor, BytesReader(data))
    for digest, runs in (profile or {}).items():
        prefetch = _Prefetch("1.0", tuple(_Run(first, last) for first, last in runs))
        data = msgspec.json.encode(prefetch)
        descriptor = Descriptor(
            media_type=_PREFETCH_TYPE, digest=Digest.of(data), size=len(data), annotations={_LAYER: digest}
        )
        contents[digest, "prefetch"] = Content(descriptor, BytesReader(data))
    subject = resolved.descriptor
    manifest = Artifact(
        schema_version=2,
        media_type=OCI_MANIFEST,
        artifact_type=ARTIFACT_TYPE,
        config=EMPTY_CONFIG,
        layers=tuple(content.descriptor for content in contents.values()),
        subject=Descriptor(media_type=subject.media_type, digest=subject.digest, size=subject.size),
    )
    data = encode_artifact(manifest)
    descriptor = Descriptor(
        media_type=OCI_MANIFEST, digest=Digest.of(data), size=len(data), artifact_type=ARTIFACT_TYPE
    )
    blobs = [Content(EMPTY_CONFIG, BytesReader(EMPTY)), *contents.values()]
    return Content(descriptor, BytesReader(data)), blobs


def list_artifacts(source: Source, resolved: ResolvedImage) -> list[Descriptor]:
    """Return the artifacts with indexes of an image, the one that is taken first: of any number always the same.

    The one with the most in it, such as a profile of what to fetch first, has the largest manifest.
    """
    found = referrers_of(source, resolved.name).referrers(resolved.descriptor, ARTIFACT_TYPE)
    return sorted(found, key=lambda each: (-each.size, each.digest))


def indexes_in(source: Source, artifact: Descriptor, subject: Digest) -> list[PublishedIndex]:
    """Return what an artifact holds.

    Raises:
        InvalidImageError: It is malformed, or belongs to another manifest.
        NotFoundError, RegistryError: It cannot be had.
    """
    name = f"index artifact {artifact.digest}"
    document = parse_artifact(read_document(source, artifact), name)
    if document.subject is None or document.subject.digest != subject:
        raise InvalidImageError(f"{name} belongs to another manifest")
    of_layers = [each for each in document.layers if _LAYER in each.annotations]
    prefetch = {each.annotations[_LAYER]: each for each in of_layers if each.media_type == _PREFETCH_TYPE}
    return [
        PublishedIndex(Digest(each.annotations[_LAYER]), each, prefetch.get(each.annotations[_LAYER]))
        for each in of_layers
        if each.media_type == INDEX_TYPE
    ]


def read_prefetch(source: Source, descriptor: Descriptor, index: LayerIndex) -> tuple[tuple[int, int], ...]:
    """Return which spans of a layer to fetch first, as somebody has published it; only those that there are.

    Raises:
        InvalidImageError: It is malformed.
        NotFoundError, RegistryError: It cannot be had.
    """
    prefetch = decode(read_document(source, descriptor), _Prefetch, f"prefetch profile {descriptor.digest}")
    runs = ((max(run.start_span, 0), min(run.end_span, index.span_count - 1)) for run in prefetch.prefetch_spans)
    return tuple((first, last) for first, last in runs if first <= last)


def published_indexes(source: Source, resolved: ResolvedImage) -> dict[Digest, PublishedIndex]:
    """Return the LayerIndex that is published for each blob, if one is.

    Raises:
        OcifsError: It cannot be told.
    """
    for artifact in list_artifacts(source, resolved):
        found = indexes_in(source, artifact, resolved.digest)
        return {each.layer: each for each in found if each.descriptor.size <= _MAX_INDEX}
    return {}


def open_published(file: FileReader, layer: Layer, limits: Limits) -> LayerIndex:
    """Return a LayerIndex that was published for `layer`.

    Raises:
        InvalidImageError: It cannot be true.
        LimitError: It holds more than a layer may.
    """
    index = LayerIndex(file)
    told = (index.summary.blob_digest, index.summary.blob_size, index.summary.diff_id)
    if told != (layer.descriptor.digest, layer.descriptor.size, layer.diff_id) or index.summary.reframed:
        raise InvalidImageError("the index is of another layer")
    if index.summary.codec != layer.compression:
        raise InvalidImageError("the index is of a layer that is compressed otherwise")
    if index.toc_size > _ENTRY * limits.entries:  # before it is unpacked
        raise limits.passed("entries", f"{index.toc_size} bytes of tar entries")
    check_entries(index.toc(), index.size, limits)
    return index
