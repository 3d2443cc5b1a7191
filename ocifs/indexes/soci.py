"""SOCI indexes: manifests that list the zTOCs of an image's layers, found as offers and made of layers.

An index of version 1 is an artifact whose subject is the image's manifest. One of version 2 is named by an annotation
of the manifest, which so commits to it: it belongs to a converted image, a new manifest with the same layers, in an
image index that lists both. Small layers have no zTOC in either. Source: the documents of the soci-snapshotter.
"""

import threading
from collections.abc import Iterator
from functools import partial
from typing import Literal

from ocifs.blobs.download import in_file
from ocifs.errors import InvalidImageError, LimitError
from ocifs.indexes.artifact import PublishedIndex, list_artifacts, listed_in, read_prefetch
from ocifs.indexes.candidate import Candidate, LookupContext, Provider, readable
from ocifs.layer.index import LayerIndex
from ocifs.reader import FileReader
from ocifs.sources.reference import Reference
from ocifs.sources.resolve import ImageLayer
from ocifs.spec.artifact import parse_artifact
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest
from ocifs.store import Writer

Version = Literal["soci-v1", "soci-v2"]

TYPES: dict[Version, str] = {
    "soci-v1": "application/vnd.amazon.soci.index.v1+json",
    "soci-v2": "application/vnd.amazon.soci.index.v2+json",
}
"""What an index says that it is, as the type of its config or of the artifact."""
ZTOC_TYPE = "application/octet-stream"
LAYER = "com.amazon.soci.image-layer-digest"
LAYER_TYPE = "com.amazon.soci.image-layer-mediaType"
INDEX = "com.amazon.soci.index-digest"
"""In a manifest: the index of version 2 that belongs to it."""

_MAX_ZTOC = 256 << 20
_ISIZE = 4
_CONVERTING = threading.Lock()
"""One at a time: a large zTOC takes a multiple of its size in memory."""


def _find_v1(place: LookupContext) -> Iterator[list[Candidate]]:
    """Give the offers of each index whose subject is the image's manifest. Raises OcifsError."""
    artifacts = list_artifacts(place.source, place.resolved, TYPES["soci-v1"])
    return readable(lambda artifact: _offers(place, "soci-v1", artifact), artifacts)


def _find_v2(place: LookupContext) -> Iterator[list[Candidate]]:
    """Give the offers of the index that the image's manifest names. Raises OcifsError."""
    named = place.resolved.manifest.annotations.get(INDEX)
    if named is not None:
        (descriptor,) = place.source.resolve(Reference("", "", digest=Digest(named)))
        yield _offers(place, "soci-v2", descriptor)


SOCI_V1 = Provider("soci-v1", can_bind=False, find=_find_v1)
SOCI_V2 = Provider("soci-v2", can_bind=True, find=_find_v2)


def _offers(place: LookupContext, version: Version, descriptor: Descriptor) -> list[Candidate]:
    listed = _read(place, version, descriptor)
    layers = place.layers()
    return [
        _offer(place, version, layers[digest], each, descriptor) for digest, each in listed.items() if digest in layers
    ]


def _read(place: LookupContext, version: Version, descriptor: Descriptor) -> dict[Digest, PublishedIndex]:
    """Return what an index lists, by the digests of the layers.

    Raises:
        InvalidImageError: It is malformed, or belongs to another manifest.
        NotFoundError, RegistryError: It cannot be had.
    """
    name = f"SOCI index {descriptor.digest}"
    document = parse_artifact(place.source.document(descriptor), name)
    if TYPES[version] not in {document.artifact_type, document.config.media_type}:
        raise InvalidImageError(f"{name} is none of that version")
    if version == "soci-v1" and (document.subject is None or document.subject.digest != place.resolved.digest):
        raise InvalidImageError(f"{name} belongs to another manifest")
    return {each.layer: each for each in listed_in(document, LAYER, ZTOC_TYPE)}


def _offer(
    place: LookupContext, version: Version, layer: ImageLayer, listed: PublishedIndex, artifact: Descriptor
) -> Candidate:
    def open_index() -> LayerIndex:
        return place.converted(
            layer, listed.descriptor.digest, lambda out: _convert(place, layer, listed.descriptor, out)
        )

    return Candidate(
        layer=layer.descriptor.digest,
        format=version,
        digest=listed.descriptor.digest,
        size=listed.descriptor.size,
        bound=version == "soci-v2",
        open=open_index,
        prefetch=partial(read_prefetch, place.source, listed),
        artifact=artifact.digest,
    )


def _convert(place: LookupContext, layer: ImageLayer, descriptor: Descriptor, out: Writer) -> None:
    """Make a LayerIndex of a zTOC, one that can be true. Raises what reading it, or the layer's end, raises."""
    from ocifs.indexes.ztoc.read import read_ztoc, size_of_gzip, write_index

    if descriptor.size > _MAX_ZTOC:
        raise LimitError(f"it has {descriptor.size} bytes, more than {_MAX_ZTOC}")
    blob = in_file(place.source.open(descriptor))
    end = layer.descriptor.size
    # The size of the stream, which no zTOC tells for certain.
    tail = place.reader(layer)(max(end - _ISIZE, 0), end) if layer.compression == "gzip" else b""
    with _CONVERTING:
        ztoc = read_ztoc(blob.pread(blob.size, 0), place.limits)
        size = ztoc.size
        if ztoc.codec == "gzip":
            size = size_of_gzip(ztoc, tail or place.reader(layer)(max(end - _ISIZE, 0), end))
        write_index(ztoc, layer, size, out)
        place.check(LayerIndex(FileReader(out.fd, 0, out.size)), layer)
