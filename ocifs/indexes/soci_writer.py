"""Make SOCI indexes: the manifest of a SOCI index and its zTOCs, from an image with indexed layers.

An index of version 1 is an artifact beside the image. For version 2 the image is converted: its manifest gets an
annotation and so becomes another image with the same blobs as layers. Layers that SOCI cannot represent are left out;
clients of the index fetch them whole.
"""

from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from ocifs.blobs.source import Source
from ocifs.errors import UnsupportedError
from ocifs.indexes.artifact import PREFETCH_TYPE, prefetch_document
from ocifs.indexes.soci import INDEX, LAYER, LAYER_TYPE, TYPES, ZTOC_TYPE, Version
from ocifs.layer.layer import Layer
from ocifs.layer.profile import Profile, Run, spans_of
from ocifs.reader import BytesReader
from ocifs.sources.referrers import NewBlob
from ocifs.sources.resolve import ResolvedImage
from ocifs.spec.artifact import EMPTY, Artifact, encode_artifact
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest
from ocifs.spec.document import parse_json
from ocifs.spec.manifest import ImageIndex
from ocifs.spec.mediatypes import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from ocifs.version import __version__

MIN_LAYER_SIZE = 10 << 20
"""Minimum layer size, in bytes, as in SOCI's own tools; fetching a smaller layer whole takes about as long."""

_TOOL = f"ocifs v{__version__}"
_BUILD_TOOL = "com.amazon.soci.build-tool-identifier"
_IMAGE = "com.amazon.soci.image-manifest-digest"

Warn = Callable[[str], None]


class SociIndex(NamedTuple):
    """A new SOCI index."""

    manifest: NewBlob
    blobs: list[NewBlob]
    layers: int
    """How many layers have a zTOC."""
    size: int
    """Total bytes of the zTOCs."""


def make_soci_index(
    resolved: ResolvedImage,
    layers: list[Layer],
    version: Version,
    min_layer_size: int,
    warn: Warn,
    profile: Profile | None = None,
) -> SociIndex:
    """Return the SOCI index of an image; reads each layer that gets a zTOC once, from front to end.

    Raises:
        UnsupportedError: The index would be empty.
    """
    contents: list[NewBlob] = []
    seen: set[Digest] = set()
    for layer, image_layer in zip(layers, resolved.layers, strict=True):
        descriptor = image_layer.descriptor
        if descriptor.digest in seen or descriptor.size < min_layer_size:
            continue
        seen.add(descriptor.digest)
        contents += _ztoc_of(layer, descriptor, warn, (profile or {}).get(descriptor.digest, ()))
    ztocs = [each.descriptor for each in contents if each.descriptor.media_type == ZTOC_TYPE]
    if not ztocs:
        raise UnsupportedError(
            f"{resolved.name} has no layer of {min_layer_size} bytes or more that SOCI can represent: use a smaller "
            "--min-layer-size, or publish an index in the ocifs format"
        )
    subject = resolved.descriptor
    manifest = Artifact(
        schema_version=2,
        media_type=OCI_MANIFEST,
        config=Descriptor(media_type=TYPES[version], digest=Digest.of(EMPTY), size=len(EMPTY)),
        layers=tuple(content.descriptor for content in contents),
        subject=Descriptor(media_type=subject.media_type, digest=subject.digest, size=subject.size)
        if version == "soci-v1"
        else None,
        annotations={_BUILD_TOOL: _TOOL},
    )
    empty = NewBlob(manifest.config, BytesReader(EMPTY))
    written = _document(encode_artifact(manifest), artifact_type=TYPES[version])
    return SociIndex(written, [empty, *contents], len(ztocs), sum(each.size for each in ztocs))


def convert_image(source: Source, resolved: ResolvedImage, index: SociIndex) -> list[NewBlob]:
    """Return the manifest of an image that names the SOCI index, and an image index with both: the converted image.

    Raises the errors of reading the manifest.
    """
    name = f"manifest {resolved.digest}"
    members = parse_json(source.document(resolved.descriptor), name)
    assert isinstance(members, dict)  # noqa: S101 - it was parsed before
    # SOCI does the same: some registries reject mixed Docker and OCI manifests.
    members["mediaType"] = OCI_MANIFEST
    members["config"]["mediaType"] = OCI_CONFIG
    members["annotations"] = (members.get("annotations") or {}) | {INDEX: str(index.manifest.descriptor.digest)}
    manifest = _document(msgspec.json.encode(members))
    platform = resolved.config.platform
    listed = ImageIndex(
        schema_version=2,
        manifests=(
            msgspec.structs.replace(manifest.descriptor, platform=platform),
            msgspec.structs.replace(
                index.manifest.descriptor,
                platform=platform,
                annotations={_IMAGE: str(manifest.descriptor.digest)},
            ),
        ),
    )
    return [manifest, _document(msgspec.json.encode(listed, enc_hook=str), OCI_INDEX)]


def _ztoc_of(layer: Layer, descriptor: Descriptor, warn: Warn, runs: tuple[Run, ...]) -> list[NewBlob]:
    """Return the zTOC of a layer, and its prefetch artifact if `runs` lists spans."""
    from ocifs.indexes.ztoc.write import write_ztoc

    try:
        ztoc = write_ztoc(layer, _TOOL)
    except UnsupportedError as error:
        warn(f"layer {descriptor.digest} is left out: {error}")
        return []
    annotations = {LAYER: str(descriptor.digest), LAYER_TYPE: descriptor.media_type}
    contents = [_content(ztoc.data, ZTOC_TYPE, annotations)]
    if runs:
        spans_first = [Run(*(_span(ztoc.spans, number) for number in spans)) for spans in spans_of(runs, layer.index)]
        prefetch = prefetch_document(dict.fromkeys(spans_first))
        contents.append(_content(prefetch, PREFETCH_TYPE, {LAYER: str(descriptor.digest)}))
    return contents


def _span(spans: list[int], number: int) -> int:
    """Return the span of the zTOC that contains a span of the LayerIndex."""
    return bisect_right(spans, number) - 1


def _content(data: bytes, media_type: str, annotations: dict[str, str]) -> NewBlob:
    descriptor = Descriptor(media_type=media_type, digest=Digest.of(data), size=len(data), annotations=annotations)
    return NewBlob(descriptor, BytesReader(data))


def _document(data: bytes, media_type: str = OCI_MANIFEST, artifact_type: str | None = None) -> NewBlob:
    descriptor = Descriptor(media_type=media_type, digest=Digest.of(data), size=len(data), artifact_type=artifact_type)
    return NewBlob(descriptor, BytesReader(data))
