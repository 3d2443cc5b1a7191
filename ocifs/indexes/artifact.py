"""LayerIndexes that travel with an image: an artifact beside its manifest, in a registry or a layout.

The artifact's layers are LayerIndexes as the store keeps them, each under the digest of the blob it is of. One that was
published is held against every rule that it could break, but that it tells the truth of the blob only the whole blob
can show; so what is built of it is kept apart from what was proven. Tree images are not published: the kernel mounts
them, and takes none but our own.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import msgspec

from ocifs.blobs.download import in_file
from ocifs.blobs.source import Source
from ocifs.errors import InvalidImageError, LimitError
from ocifs.indexes.candidate import Candidate, LookupContext, Provider, Runs, readable
from ocifs.layer.index import KIND, LayerIndex
from ocifs.layer.profile import Prefetch, Profile, Run, runs_of, spans_of
from ocifs.reader import BytesReader, FileReader
from ocifs.sources.referrers import Content
from ocifs.sources.resolve import ImageLayer, ResolvedImage
from ocifs.spec.artifact import EMPTY, EMPTY_CONFIG, Artifact, encode_artifact, parse_artifact
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest
from ocifs.spec.document import decode
from ocifs.spec.mediatypes import OCI_MANIFEST

ARTIFACT_TYPE = "application/vnd.ocifs.layer-indexes.v1"
INDEX_TYPE = f"application/vnd.ocifs.layer-index.v{KIND.version}"
PREFETCH_TYPE = "application/vnd.amazon.soci.prefetch.v1+json"
_LAYER = "vnd.ocifs.layer.digest"
_LAYER_SIZE = "vnd.ocifs.layer.size"

_MAX_INDEX = 1 << 30


class PublishedIndex(NamedTuple):
    """A LayerIndex in an artifact, or what one can be made of."""

    layer: Digest
    """The blob that it says to be of."""
    descriptor: Descriptor
    prefetch: Descriptor | None = None
    """Which spans to fetch first."""


def make_artifact(
    resolved: ResolvedImage, indexes: list[LayerIndex], profile: Profile | None = None
) -> tuple[Content, list[Content]]:
    """Return the manifest of an artifact with the indexes of an image, and its blobs.

    A reframed one is left out: it is a copy of its layer. With `profile`, what to fetch first goes with them.
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
    for index in indexes:
        digest = index.summary.blob_digest
        if profile and digest in profile and (digest, "index") in contents:
            data = prefetch_document(runs_of(profile[digest], index))
            descriptor = Descriptor(
                media_type=PREFETCH_TYPE, digest=Digest.of(data), size=len(data), annotations={_LAYER: digest}
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


def prefetch_document(runs: Iterable[Run]) -> bytes:
    """Return what SOCI calls a prefetch artifact."""
    return msgspec.json.encode(Prefetch(version="1.0", prefetch_spans=tuple(runs)))


def list_artifacts(source: Source, resolved: ResolvedImage, artifact_type: str = ARTIFACT_TYPE) -> list[Descriptor]:
    """Return the artifacts with indexes of an image, the one that is taken first: of any number always the same.

    The one with the most in it, such as a profile of what to fetch first, has the largest manifest.
    """
    found = source.referrers().list_referrers(resolved.descriptor, artifact_type)
    return sorted(found, key=lambda each: (-each.size, each.digest))


def indexes_in(source: Source, artifact: Descriptor, subject: Digest) -> list[PublishedIndex]:
    """Return what an artifact holds.

    Raises:
        InvalidImageError: It is malformed, or belongs to another manifest.
        NotFoundError, RegistryError: It cannot be had.
    """
    name = f"index artifact {artifact.digest}"
    document = parse_artifact(source.document(artifact), name)
    if document.subject is None or document.subject.digest != subject:
        raise InvalidImageError(f"{name} belongs to another manifest")
    return listed_in(document, _LAYER, INDEX_TYPE)


def listed_in(document: Artifact, annotation: str, media_type: str) -> list[PublishedIndex]:
    """Return what of that media type an artifact lists, with prefetch artifacts; `annotation` names their layers."""
    of_layers = [each for each in document.layers if annotation in each.annotations]
    prefetch = {each.annotations[annotation]: each for each in of_layers if each.media_type == PREFETCH_TYPE}
    return [
        PublishedIndex(Digest(each.annotations[annotation]), each, prefetch.get(each.annotations[annotation]))
        for each in of_layers
        if each.media_type == media_type
    ]


def read_prefetch(source: Source, found: PublishedIndex, index: LayerIndex) -> Runs:
    """Return which spans of a layer to fetch first, if somebody has published that; only those that there are.

    Raises:
        InvalidImageError: It is malformed.
        NotFoundError, RegistryError: It cannot be had.
    """
    if found.prefetch is None:
        return ()
    name = f"prefetch profile {found.prefetch.digest}"
    return spans_of(decode(source.document(found.prefetch), Prefetch, name).prefetch_spans, index)


def find(place: LookupContext) -> Iterator[list[Candidate]]:
    """Give what is published of an image as LayerIndexes, one artifact after the other.

    Raises:
        OcifsError: It cannot be told.
    """
    layers = place.layers()

    def offers(artifact: Descriptor) -> list[Candidate]:
        listed = indexes_in(place.source, artifact, place.resolved.digest)
        return [_offer(place, layers[each.layer], each, artifact) for each in listed if each.layer in layers]

    return readable(offers, list_artifacts(place.source, place.resolved))


OCIFS = Provider("ocifs", can_bind=False, find=find)


def _offer(place: LookupContext, layer: ImageLayer, found: PublishedIndex, artifact: Descriptor) -> Candidate:
    def open_index() -> LayerIndex:
        if found.descriptor.size > _MAX_INDEX:
            raise LimitError(f"it has {found.descriptor.size} bytes, more than {_MAX_INDEX}")
        section = in_file(place.source.open(found.descriptor))
        index = LayerIndex(FileReader(section.fd, section.offset, section.size))
        if index.summary.toc:
            raise InvalidImageError("the index is not of the layer's tar")
        return place.check(index, layer)

    return Candidate(
        layer=found.layer,
        format=OCIFS.name,
        digest=found.descriptor.digest,
        size=found.descriptor.size,
        bound=False,
        open=open_index,
        prefetch=partial(read_prefetch, place.source, found),
        artifact=artifact.digest,
    )
