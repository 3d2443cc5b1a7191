"""Descriptors: a media type, a digest and a size that together name a blob (image-spec descriptor.md)."""

from typing import Annotated

import msgspec

from ocifs.spec.digest import Digest
from ocifs.spec.platform import Platform


class Descriptor(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    """A reference to a blob. `urls` are followed only where the user allows that (`sources.registry.foreign`)."""

    media_type: str
    digest: Digest
    size: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    """Bytes."""
    urls: tuple[str, ...] = ()
    annotations: dict[str, str] = {}
    data: bytes | None = None
    """The blob itself, unverified."""
    platform: Platform | None = None
    artifact_type: str | None = None
    """Set only if the blob is the manifest of an artifact."""
