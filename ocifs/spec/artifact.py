"""Artifacts: manifests of something that belongs to an image (image-spec manifest.md, `artifactType`, `subject`)."""

from typing import Literal

import msgspec

from ocifs.errors import InvalidImageError
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest
from ocifs.spec.document import decode
from ocifs.spec.mediatypes import OCI_MANIFEST

EMPTY = b"{}"
EMPTY_CONFIG = Descriptor(media_type="application/vnd.oci.empty.v1+json", digest=Digest.of(EMPTY), size=len(EMPTY))


class Artifact(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    """The manifest of an artifact."""

    schema_version: Literal[2]
    media_type: str
    artifact_type: str = ""
    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    """The manifest that the artifact refers to."""
    annotations: dict[str, str] = {}


def parse_artifact(data: bytes, name: str) -> Artifact:
    """Parse an artifact.

    Raises:
        InvalidImageError: It is malformed, or another document.
        LimitError: It is nested too deeply.
    """
    artifact = decode(data, Artifact, name)
    if artifact.media_type != OCI_MANIFEST:
        raise InvalidImageError(f"{name} is not the manifest of an artifact")
    return artifact


def encode_artifact(artifact: Artifact) -> bytes:
    """Return the JSON document."""
    # Members with a fixed value have no default, because defaults are omitted.
    return msgspec.json.encode(artifact, enc_hook=str)


def referrers_tag(subject: Digest) -> str:
    """Return the tag that lists the referrers where the API is missing (distribution spec, Referrers Tag Schema)."""
    return f"{subject.algorithm[:32]}-{subject.hex[:64]}"
