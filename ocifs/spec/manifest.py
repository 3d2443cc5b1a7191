"""Manifests and image indexes, OCI's and Docker's (image-spec manifest.md, image-index.md).

A document's descriptor, its own `mediaType` and its shape each state its kind. They must agree, or two programs would
see two images under one digest (CVE-2021-41190). OCI's and Docker's name of a kind are equivalent: containerd and
podman accept either in both.
"""

from typing import Any, Literal

import msgspec

from ocifs.errors import InvalidImageError, UnsupportedError
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.document import canonical, parse_json, shown, typed
from ocifs.spec.mediatypes import INDEXES, MANIFESTS, OCI_INDEX, OCI_MANIFEST, describe_non_image


class Manifest(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    """An image's config and layers, the base layer first."""

    schema_version: Literal[2]
    media_type: str = OCI_MANIFEST
    artifact_type: str = ""
    """Set only in the manifest of an artifact."""
    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    annotations: dict[str, str] = {}


class ImageIndex(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Manifests and nested indexes to choose from."""

    schema_version: Literal[2]
    media_type: str = OCI_INDEX
    manifests: tuple[Descriptor, ...] = ()
    annotations: dict[str, str] = {}


class _Outline(msgspec.Struct, rename="camel"):
    """The members that distinguish the kinds of documents."""

    schema_version: Any = None
    media_type: Any = None
    artifact_type: Any = None
    manifests: Any = None
    config: Any = None
    layers: Any = None


def parse_document(data: bytes, name: str, media_type: str | None = None) -> Manifest | ImageIndex:
    """Parse a manifest or an image index.

    Args:
        data: The JSON text; the caller verifies its digest.
        name: Name in errors.
        media_type: The media type in the document's descriptor; None if there is no descriptor.

    Raises:
        InvalidImageError: It is malformed, or its kind is contradictory.
        UnsupportedError: It is a document of another kind.
        LimitError: It is nested too deeply.
    """
    members = _members(data, name)
    stated = members.get("mediaType", media_type)
    if isinstance(stated, str) and stated not in INDEXES | MANIFESTS:
        raise UnsupportedError(f"{name} is {describe_non_image(stated, _text(members.get('artifactType')))}")
    is_index = "manifests" in members
    if not is_index and members.keys().isdisjoint({"config", "layers"}):
        is_index = stated in INDEXES  # Go writes null for no manifests
        if not is_index:
            raise InvalidImageError(f"{name} is neither an image index nor a manifest: it has no manifests, no config")
    document = typed(members, ImageIndex, name) if is_index else typed(members, Manifest, name)
    if "mediaType" not in members and media_type is not None:
        document = msgspec.structs.replace(document, media_type=media_type)
    if media_type is not None and (document.media_type in INDEXES) != (media_type in INDEXES):
        raise InvalidImageError(
            f"{name} says its media type is '{shown(document.media_type)}', its descriptor says '{shown(media_type)}'"
        )
    if is_index != (document.media_type in INDEXES):
        raise InvalidImageError(f"{name} has the media type '{document.media_type}' but the members of the other kind")
    return document


def parse_index(data: bytes, name: str) -> ImageIndex:
    """Parse an image index that has no descriptor, such as `index.json`.

    Raises:
        InvalidImageError: It is malformed, or another document.
        UnsupportedError: It is a document of another kind.
        LimitError: It is nested too deeply.
    """
    members = _members(data, name)
    stated = members.get("mediaType", OCI_INDEX)
    if stated in MANIFESTS or not members.keys().isdisjoint({"config", "layers"}):
        raise InvalidImageError(f"{name} is a manifest, not an image index")
    if isinstance(stated, str) and stated not in INDEXES:
        raise InvalidImageError(f"{name} says its media type is '{shown(stated)}', which is not an image index")
    return typed(members, ImageIndex, name)


def _members(data: bytes, name: str) -> dict[str, object]:
    """Parse the members of a document of either kind. Raises as `parse_document`."""
    members = canonical(parse_json(data, name), _Outline, name)
    if not isinstance(members, dict):
        raise InvalidImageError(f"{name} is not a JSON object")
    if members.get("schemaVersion") == 1:
        raise UnsupportedError(f"{name} is a Docker schema 1 manifest: convert the image with `skopeo copy`")
    if "manifests" in members and not members.keys().isdisjoint({"config", "layers"}):
        raise InvalidImageError(f"{name} claims to be both an image index and a manifest")
    return members


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
