"""Manifests and image indexes, OCI's and Docker's (image-spec manifest.md, image-index.md).

What kind of document it is, its descriptor says, its own `mediaType` says and its shape says; they must agree, or two
programs would see two images under one digest (CVE-2021-41190). Whether a kind is called by OCI's name or by Docker's
makes no difference: containerd and podman accept either in either.
"""

from typing import Any, Literal

import msgspec

from ocifs.errors import InvalidImageError, UnsupportedError
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.document import canonical, parse_json, shown, typed
from ocifs.spec.mediatypes import INDEXES, MANIFESTS, OCI_INDEX, OCI_MANIFEST, no_image


class Manifest(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    """An image's config and layers, the base layer first."""

    schema_version: Literal[2]
    media_type: str = OCI_MANIFEST
    artifact_type: str = ""
    """Given only where the manifest is of something else than an image."""
    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    annotations: dict[str, str] = {}


class ImageIndex(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Manifests, and further indexes, to choose from."""

    schema_version: Literal[2]
    media_type: str = OCI_INDEX
    manifests: tuple[Descriptor, ...] = ()
    annotations: dict[str, str] = {}


class _Outline(msgspec.Struct, rename="camel"):
    """The names of the members that tell one kind of document from the others."""

    schema_version: Any = None
    media_type: Any = None
    artifact_type: Any = None
    manifests: Any = None
    config: Any = None
    layers: Any = None


def parse_document(data: bytes, name: str, media_type: str | None = None) -> Manifest | ImageIndex:
    """Return the manifest or index in `data`.

    Args:
        data: The JSON text; its digest is the caller's to verify.
        name: What errors call the document.
        media_type: What the document's descriptor says it is; None if there is no descriptor.

    Raises:
        InvalidImageError: It is malformed, or its kind is stated in two ways.
        UnsupportedError: It is a document of another kind.
        LimitError: It is nested too deeply.
    """
    members = _members(data, name)
    stated = members.get("mediaType", media_type)
    if isinstance(stated, str) and stated not in INDEXES | MANIFESTS:
        raise UnsupportedError(f"{name} is {no_image(stated, _text(members.get('artifactType')))}")
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
    """Return the image index in `data`, which is one by its place, such as `index.json`: no descriptor says so.

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
        raise InvalidImageError(f"{name} says its media type is '{shown(stated)}', which is no image index")
    return typed(members, ImageIndex, name)


def _members(data: bytes, name: str) -> dict[str, object]:
    """Return the members of a document that may be of either kind. Raises as `parse_document`."""
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
