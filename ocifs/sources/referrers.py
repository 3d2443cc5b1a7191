"""Artifacts that refer to a manifest, where that manifest is: found, written and removed, in a registry or a layout.

`Referrers` is the interface. It does not know what an artifact holds.
"""

from typing import NamedTuple, Protocol

from ocifs.reader import ReaderAt
from ocifs.spec.descriptor import Descriptor


class NewBlob(NamedTuple):
    """A blob to be written."""

    descriptor: Descriptor
    blob: ReaderAt


class Referrers(Protocol):
    """A place that holds manifests and the artifacts that refer to them; a read-only one raises UnsupportedError."""

    def list_referrers(self, subject: Descriptor, artifact_type: str) -> list[Descriptor]:
        """Return the manifests of that type whose subject is `subject`, in the order in which they are listed."""
        ...

    def attach(self, subject: Descriptor, manifest: NewBlob, blobs: list[NewBlob]) -> None:
        """Write an artifact, whose manifest names `subject`; the manifest comes last, so no artifact is partial."""
        ...

    def detach(self, subject: Descriptor, manifest: Descriptor) -> None:
        """Remove an artifact; its blobs are left to the garbage collection there."""
        ...

    def put(self, tag: str, manifests: list[NewBlob], blobs: list[NewBlob]) -> None:
        """Write an image of which some blobs may exist there, and tag the last of `manifests`."""
        ...
