"""Manifests and image indexes, OCI's and Docker's (image-spec manifest.md, image-index.md).

What a document is, its descriptor says, its own `mediaType` says and its shape says; they must agree, or two
programs would see two images under one digest (CVE-2021-41190).
"""

from typing import Literal

import msgspec

from ocifs.errors import InvalidImageError, UnsupportedError
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.document import parse_json, shown, typed
from ocifs.spec.mediatypes import INDEXES, MANIFESTS, OCI_INDEX, OCI_MANIFEST


class Manifest(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    """An image's config and layers, the base layer first."""

    schema_version: Literal[2]
    media_type: str = OCI_MANIFEST
    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    annotations: dict[str, str] = {}


class ImageIndex(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Manifests, and further indexes, to choose from."""

    schema_version: Literal[2]
    media_type: str = OCI_INDEX
    manifests: tuple[Descriptor, ...]
    annotations: dict[str, str] = {}


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
    members = parse_json(data, name)
    if not isinstance(members, dict):
        raise InvalidImageError(f"{name} is not a JSON object")
    if members.get("schemaVersion") == 1:
        raise UnsupportedError(f"{name} is a Docker schema 1 manifest: convert the image with `skopeo copy`")
    is_index = "manifests" in members
    if is_index and ("layers" in members or "config" in members):
        raise InvalidImageError(f"{name} claims to be both an image index and a manifest")
    document = typed(members, ImageIndex, name) if is_index else typed(members, Manifest, name)
    if "mediaType" not in members and media_type is not None:
        document = msgspec.structs.replace(document, media_type=media_type)
    _check_media_type(document, name, media_type)
    return document


def _check_media_type(document: Manifest | ImageIndex, name: str, media_type: str | None) -> None:
    stated = document.media_type
    if media_type is not None and media_type != stated:
        raise InvalidImageError(
            f"{name} says its media type is '{shown(stated)}', its descriptor says '{shown(media_type)}'"
        )
    if stated not in INDEXES | MANIFESTS:
        raise UnsupportedError(f"{name} is no image manifest or index but '{shown(stated)}'")
    if isinstance(document, ImageIndex) != (stated in INDEXES):
        raise InvalidImageError(f"{name} has the media type '{stated}' but the members of the other kind")
