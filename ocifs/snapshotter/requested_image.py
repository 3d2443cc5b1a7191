"""The image of a pull, from the labels that containerd's clients give a snapshot.

CRI (containerd 1.6 and later, and the transfer service) names the manifest by digest. The clients of the stargz
snapshotter, such as `ctr-remote`, name a tag and the digest of the layer. Labels of plain pulls and imports name
nothing. containerd's manual of remote snapshotters (docs/remote-snapshotter.md) describes them.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from ocifs.errors import InvalidImageError
from ocifs.image.opening import FoundImage, find_image
from ocifs.options import Options
from ocifs.sources.reference import Reference, parse_reference
from ocifs.sources.registry.access import Access
from ocifs.spec.digest import Digest

TARGET = "containerd.io/snapshot.ref"
"""Label with the chain ID under which the client will commit the snapshot."""
_CRI = "containerd.io/snapshot/cri."
_STARGZ = "containerd.io/snapshot/remote/stargz."


class RequestedImage(NamedTuple):
    """An image that a client is pulling."""

    reference: Reference
    """In a registry: by the digest of its manifest if the labels have one, else by tag."""
    name: str
    """The name that the pull used, such as `docker.io/library/debian:12`."""
    layer: Digest | None
    """The layer of this snapshot, if the labels name it."""


def requested_image(labels: Mapping[str, str]) -> RequestedImage | None:
    """Return the image that the labels of a snapshot name; None without such labels.

    Raises:
        InvalidImageError, UnsupportedError: The labels are malformed.
    """
    name = labels.get(f"{_CRI}image-ref") or labels.get(f"{_STARGZ}reference")
    if not name or TARGET not in labels:
        return None
    manifest = labels.get(f"{_CRI}manifest-digest")
    layer = labels.get(f"{_CRI}layer-digest") or labels.get(f"{_STARGZ}digest")
    # No path and no short name: the client has completed the name.
    reference = parse_reference(f"docker://{name}", lambda path: False)
    if reference.transport != "docker" or reference.without:
        raise InvalidImageError("the label with the name of the image has no image in a registry")
    if manifest:
        reference = by_digest(reference.path, Digest(manifest))
    return RequestedImage(reference, name, Digest(layer) if layer else None)


def by_digest(repository: str, manifest: Digest, without: int = 0) -> Reference:
    """Return the reference of an image in a registry, without its last layers."""
    suffix = f"~{without}" if without else ""
    text = f"docker://{repository}@{manifest}{suffix}"
    return Reference(text, repository, "docker", digest=manifest, without=without)


def find_requested(
    reference: Reference, options: Options, access: Callable[[Reference], Access] | None = None
) -> FoundImage:
    """Read manifest and config, and look up published indexes; `access` returns the credentials for a reference.

    The pull has named the registry, so its indexes are trusted like a tag, unless the operator decides otherwise; the
    mount verifies them in the background.

    Raises:
        OcifsError: As `ocifs.image.opening.find_image`.
    """
    trust = True if options.trust_index is None else options.trust_index
    options = replace(options, trust_index=trust, access=access(reference) if access else options.access)
    return find_image(reference, options)
