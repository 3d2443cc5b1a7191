"""Artifacts: manifests of what is no image but belongs to one (image-spec manifest.md, `artifactType`, `subject`)."""

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
    """The manifest that it belongs to."""
    annotations: dict[str, str] = {}


def parse_artifact(data: bytes, name: str) -> Artifact:
    """Return the artifact in `data`.

    Raises:
        InvalidImageError: It is malformed, or another document.
        LimitError: It is too large or nested too deeply.
    """
    artifact = decode(data, Artifact, name)
    if artifact.media_type != OCI_MANIFEST:
        raise InvalidImageError(f"{name} is no manifest of an artifact")
    return artifact


def encode_artifact(artifact: Artifact) -> bytes:
    """Return the document."""
    # Its fixed members are no defaults, so that they are written.
    return msgspec.json.encode(artifact, enc_hook=str)


def referrers_tag(subject: Digest) -> str:
    """Return the tag that lists the referrers where the API is missing (distribution spec, Referrers Tag Schema)."""
    return f"{subject.algorithm[:32]}-{subject.hex[:64]}"
