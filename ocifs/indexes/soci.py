"""SOCI indexes: manifests that list the zTOCs of an image's layers, as candidates.

An index of version 1 is an artifact whose subject is the image's manifest. For version 2, an annotation of the manifest
names the index, so the manifest commits to it. It belongs to a converted image: a new manifest with the same layers, in
an image index that lists both. In either version, small layers have no zTOC. Source: the documentation of
soci-snapshotter.
"""

import threading
from collections.abc import Iterator
from functools import partial
from typing import Literal

from ocifs.blobs.download import in_file
from ocifs.errors import InvalidImageError, LimitError
from ocifs.indexes.artifact import PublishedIndex, list_artifacts, listed_in, read_prefetch
from ocifs.indexes.candidate import Candidate, LookupContext, Provider, read_each
from ocifs.layer.index import LayerIndex, open_index
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
"""The type that an index states, as its config's media type or its artifact type."""
ZTOC_TYPE = "application/octet-stream"
LAYER = "com.amazon.soci.image-layer-digest"
LAYER_TYPE = "com.amazon.soci.image-layer-mediaType"
INDEX = "com.amazon.soci.index-digest"
"""In a manifest: the digest of its index of version 2."""

_MAX_ZTOC = 256 << 20
_ISIZE = 4
_CONVERTING = threading.Lock()
"""One conversion at a time: a large zTOC takes several times its size in memory."""


def _find_v1(context: LookupContext) -> Iterator[list[Candidate]]:
    """Yield the candidates of each index whose subject is the image's manifest. Raises OcifsError."""
    artifacts = list_artifacts(context.source, context.resolved, TYPES["soci-v1"])
    return read_each(lambda artifact: _candidates(context, "soci-v1", artifact), artifacts)


def _find_v2(context: LookupContext) -> Iterator[list[Candidate]]:
    """Yield the candidates of the index that the image's manifest names. Raises OcifsError."""
    named = context.resolved.manifest.annotations.get(INDEX)
    if named is not None:
        (descriptor,) = context.source.resolve(Reference("", "", digest=Digest(named)))
        yield _candidates(context, "soci-v2", descriptor)


SOCI_V1 = Provider("soci-v1", can_bind=False, find=_find_v1)
SOCI_V2 = Provider("soci-v2", can_bind=True, find=_find_v2)


def _candidates(context: LookupContext, version: Version, descriptor: Descriptor) -> list[Candidate]:
    listed = _read(context, version, descriptor)
    layers = context.layers()
    return [
        _candidate(context, version, layers[digest], each, descriptor)
        for digest, each in listed.items()
        if digest in layers
    ]


def _read(context: LookupContext, version: Version, descriptor: Descriptor) -> dict[Digest, PublishedIndex]:
    """Return the documents that an index lists, by the digests of the layers.

    Raises:
        InvalidImageError: It is malformed, or belongs to another manifest.
        NotFoundError, RegistryError: It cannot be fetched.
    """
    name = f"SOCI index {descriptor.digest}"
    document = parse_artifact(context.source.document(descriptor), name)
    if TYPES[version] not in {document.artifact_type, document.config.media_type}:
        raise InvalidImageError(f"{name} is not of that version")
    if version == "soci-v1" and (document.subject is None or document.subject.digest != context.resolved.digest):
        raise InvalidImageError(f"{name} belongs to another manifest")
    return {each.layer: each for each in listed_in(document, LAYER, ZTOC_TYPE)}


def _candidate(
    context: LookupContext, version: Version, layer: ImageLayer, listed: PublishedIndex, artifact: Descriptor
) -> Candidate:
    def open_candidate() -> LayerIndex:
        return context.converted(
            layer, listed.descriptor.digest, lambda out: _convert(context, layer, listed.descriptor, out)
        )

    return Candidate(
        layer=layer.descriptor.digest,
        format=version,
        digest=listed.descriptor.digest,
        size=listed.descriptor.size,
        bound=version == "soci-v2",
        open=open_candidate,
        prefetch=partial(read_prefetch, context.source, listed),
        artifact=artifact.digest,
    )


def _convert(context: LookupContext, layer: ImageLayer, descriptor: Descriptor, out: Writer) -> None:
    """Convert a zTOC to a LayerIndex and validate it. Raises the errors of reading it or the end of the layer."""
    from ocifs.indexes.ztoc.read import read_ztoc, size_of_gzip, write_index

    if descriptor.size > _MAX_ZTOC:
        raise LimitError(f"it has {descriptor.size} bytes, more than {_MAX_ZTOC}")
    blob = in_file(context.source.open(descriptor))
    end = layer.descriptor.size
    # The blob's end has the size of the stream; a zTOC does not state it reliably.
    tail = context.reader(layer)(max(end - _ISIZE, 0), end) if layer.compression == "gzip" else b""
    with _CONVERTING:
        ztoc = read_ztoc(blob.pread(blob.size, 0), context.limits)
        size = ztoc.size
        if ztoc.codec == "gzip":
            size = size_of_gzip(ztoc, tail or context.reader(layer)(max(end - _ISIZE, 0), end))
        write_index(ztoc, layer, size, out)
        context.check(open_index(FileReader(out.fd, 0, out.size)), layer)
