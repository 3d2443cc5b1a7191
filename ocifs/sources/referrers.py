"""What belongs to a manifest, and lies where that lies: found, written and removed, in a registry or a layout.

`Referrers` is the joint. What an artifact holds is for whoever asks for its type.
"""

from typing import NamedTuple, Protocol, runtime_checkable

from ocifs.reader import ReaderAt
from ocifs.spec.descriptor import Descriptor


class Content(NamedTuple):
    """A blob to be written."""

    descriptor: Descriptor
    blob: ReaderAt


@runtime_checkable
class Referrers(Protocol):
    """A place that holds manifests and what refers to them."""

    def referrers(self, subject: Descriptor, artifact_type: str) -> list[Descriptor]:
        """Return the manifests of that type whose subject is `subject`, in the order in which they are listed."""
        ...

    def attach(self, subject: Descriptor, manifest: Content, blobs: list[Content]) -> None:
        """Write an artifact, whose manifest names `subject`. The manifest comes last, so it is there whole or not."""
        ...

    def detach(self, subject: Descriptor, manifest: Descriptor) -> None:
        """Remove an artifact; its blobs are left to whoever collects garbage there."""
        ...

    def put(self, tag: str, manifests: list[Content], blobs: list[Content]) -> None:
        """Write an image of which some blobs are there already, under a tag: that of the last of `manifests`."""
        ...
