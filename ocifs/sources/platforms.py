"""Platforms of manifests whose descriptors state none: read from their configs, as containerd and `inspect --all` do.

This reads two documents for each manifest, so their number is bounded. A manifest that is unreadable, or is not of an
image, has no platform. It does not choose a platform.
"""

from collections.abc import Sequence
from itertools import islice

import msgspec

from ocifs.errors import InvalidImageError, LimitError, NotFoundError, UnsupportedError
from ocifs.sources.source import DocumentSource
from ocifs.spec.config import parse_config
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.manifest import Manifest, parse_document
from ocifs.spec.mediatypes import CONFIGS, MANIFESTS
from ocifs.spec.platform import Platform

MAX_CONFIGS = 64
"""Most configs read to choose among manifests; an image beyond them can be named by digest."""


def states_platform(descriptor: Descriptor) -> bool:
    """Return whether a descriptor states a platform."""
    platform = descriptor.platform
    return platform is not None and bool(platform.os and platform.architecture)


def with_platforms(source: DocumentSource, descriptors: Sequence[Descriptor]) -> list[Descriptor]:
    """Return `descriptors`, adding the platform from the config where a manifest's descriptor states none.

    Raises:
        RegistryError: The registry cannot be reached, or refuses.
    """
    missing = {each.digest: each for each in descriptors if _needs_config(each)}
    read = {digest: _of_config(source, each) for digest, each in islice(missing.items(), MAX_CONFIGS)}
    return [
        msgspec.structs.replace(each, platform=read.get(each.digest) or each.platform) if _needs_config(each) else each
        for each in descriptors
    ]


def _needs_config(descriptor: Descriptor) -> bool:
    return descriptor.media_type in MANIFESTS and not states_platform(descriptor)


def _of_config(source: DocumentSource, descriptor: Descriptor) -> Platform | None:
    name = f"manifest {descriptor.digest}"
    try:
        manifest = parse_document(source.document(descriptor), name, descriptor.media_type)
        if not isinstance(manifest, Manifest) or manifest.config.media_type not in CONFIGS:
            return None
        platform = parse_config(source.document(manifest.config), f"config {manifest.config.digest}").platform
    except (NotFoundError, InvalidImageError, UnsupportedError, LimitError):
        return None
    return platform if platform.os and platform.architecture else None
