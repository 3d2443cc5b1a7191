"""The referrers of a registry, and the last answer for times when the registry cannot be reached.

An image whose bytes and indexes are all in the store can then be opened without network. Only a failure of the registry
counts: if it answers that an artifact is gone, the artifact is gone.
"""

import contextlib
from typing import Final

import msgspec

from ocifs.errors import InvalidImageError, RegistryError
from ocifs.sources.referrers import NewBlob, Referrers
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest
from ocifs.spec.document import decode
from ocifs.store import Kind, Store

REFERRERS: Final = Kind("referrers", 1)
_MAX: Final = 4 << 20


class KeptReferrers:
    """Referrers of a repository."""

    def __init__(self, referrers: Referrers, store: Store, repository: str, *, prefer_kept: bool = False) -> None:
        """Keep the answers for `repository`, `HOST[:PORT]/REPOSITORY`: another one may have other artifacts.

        With `prefer_kept`, the registry is asked only if no answer is kept.
        """
        self._referrers = referrers
        self._store = store
        self._repository = repository
        self._prefer_kept = prefer_kept

    def list_referrers(self, subject: Descriptor, artifact_type: str) -> list[Descriptor]:
        """Return the artifacts of that type, or those of the last answer if the registry cannot be reached."""
        name = Digest.of(f"{self._repository} {subject.digest} {artifact_type}".encode())
        kept = self._kept(name)
        if self._prefer_kept and kept is not None:
            return kept
        try:
            found = self._referrers.list_referrers(subject, artifact_type)
        except RegistryError:
            if kept is None:
                raise
            return kept
        if found != kept:
            data = msgspec.json.encode(found, enc_hook=str)
            self._store.get(REFERRERS, name, lambda out: out.write(data), anew=True).close()
        return found

    def _kept(self, name: Digest) -> list[Descriptor] | None:
        file = self._store.load(REFERRERS, name)
        if file is None:
            return None
        with contextlib.closing(file), contextlib.suppress(InvalidImageError):
            return decode(file.pread(min(file.size, _MAX), 0), list[Descriptor], "the last referrers")
        return None

    def attach(self, subject: Descriptor, manifest: NewBlob, blobs: list[NewBlob]) -> None:
        """Write an artifact."""
        self._referrers.attach(subject, manifest, blobs)

    def detach(self, subject: Descriptor, manifest: Descriptor) -> None:
        """Remove an artifact."""
        self._referrers.detach(subject, manifest)

    def put(self, tag: str, manifests: list[NewBlob], blobs: list[NewBlob]) -> None:
        """Write an image."""
        self._referrers.put(tag, manifests, blobs)
