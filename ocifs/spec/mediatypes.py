"""Media types of OCI images and of Docker's schema 2, which differ only in name.

Sources: image-spec media-types.md, and for the `vnd.docker` names Docker's "Image Manifest Version 2, Schema 2". The
bytes of a layer decide how it is decoded, not its media type.
"""

from typing import Literal, NamedTuple

from ocifs.errors import UnsupportedError
from ocifs.spec.document import shown

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_NONDISTRIBUTABLE_LAYER = "application/vnd.oci.image.layer.nondistributable.v1.tar"

DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_FOREIGN_LAYER = "application/vnd.docker.image.rootfs.foreign.diff.tar"

INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
_ANY_CONFIG = frozenset({"application/octet-stream", "application/json", "text/html", "text/plain; charset=utf-8"})
"""Media types of configs in images of Docker 1.10 and registries of its time, which Docker still accepts."""
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG}) | _ANY_CONFIG
_SCHEMA_1 = frozenset({f"application/vnd.docker.distribution.manifest.v1+{form}" for form in ("json", "prettyjws")})
_ARTIFACT_MANIFEST = "application/vnd.oci.artifact.manifest.v1+json"

Compression = Literal["tar", "gzip", "zstd"]
"""How a layer's tar is compressed; `tar`: not at all."""

COMPRESSIONS: dict[Compression, str] = {"tar": "an uncompressed tar", "gzip": "gzip", "zstd": "zstd"}
"""Names in messages."""


class LayerType(NamedTuple):
    """The meaning of a layer's media type."""

    compression: Compression
    nondistributable: bool
    """Whether the layer may be absent beside its image; then its descriptor's `urls` say where it is."""


def _layer_types() -> dict[str, LayerType]:
    types: dict[str, LayerType] = {}
    for compression in COMPRESSIONS:
        for base, separator in (
            (OCI_LAYER, "+"),
            (OCI_NONDISTRIBUTABLE_LAYER, "+"),
            (DOCKER_LAYER, "."),
            (DOCKER_FOREIGN_LAYER, "."),
        ):
            name = base if compression == "tar" else base + separator + compression
            types[name] = LayerType(compression, base in (OCI_NONDISTRIBUTABLE_LAYER, DOCKER_FOREIGN_LAYER))
    return types


_LAYER_TYPES = _layer_types()


def is_nondistributable(media_type: str) -> bool:
    """Return whether a layer of this media type may be stored elsewhere."""
    known = _LAYER_TYPES.get(media_type)
    return known is not None and known.nondistributable


def describe_non_image(media_type: str, artifact_type: str | None = None) -> str:
    """Describe a manifest that is not of an image, and what to do about it: the end of a message."""
    if media_type in _SCHEMA_1:
        return "a Docker schema 1 manifest: convert the image with `skopeo copy`"
    if artifact_type:
        return f"an artifact of the type '{shown(artifact_type)}', not a container image"
    if media_type == _ARTIFACT_MANIFEST:
        return "an artifact manifest, not a container image"
    return f"not an image manifest or index but '{shown(media_type)}'"


def layer_type(media_type: str, layer: str) -> LayerType:
    """Return the meaning of a layer's media type; `layer` names it in errors.

    Raises:
        UnsupportedError: The layer is encrypted, or its media type is unknown.
    """
    known = _LAYER_TYPES.get(media_type)
    if known is not None:
        return known
    if media_type.endswith("+encrypted"):
        raise UnsupportedError(f"{layer} is encrypted ({shown(media_type)}): decrypt the image first")
    raise UnsupportedError(
        f"{layer} has the unsupported media type '{shown(media_type)}': "
        "ocifs reads tar layers, plain or compressed with gzip or zstd"
    )
