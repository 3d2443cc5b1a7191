"""The last answer of a registry about artifacts counts when it does not answer, and only then."""

from pathlib import Path

import pytest

from ocifs.blobs.kept_referrers import KeptReferrers
from ocifs.errors import OcifsError, RegistryError
from ocifs.sources.referrers import NewBlob
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest
from ocifs.store import Store

SUBJECT = Descriptor(media_type="m", digest=Digest.of(b"subject"), size=1)
ARTIFACT = Descriptor(media_type="m", digest=Digest.of(b"artifact"), size=2, artifact_type="t", annotations={"a": "b"})


class _Registry:
    def __init__(self) -> None:
        self.found: list[Descriptor] | OcifsError = [ARTIFACT]

    def list_referrers(self, subject: Descriptor, artifact_type: str) -> list[Descriptor]:
        if isinstance(self.found, OcifsError):
            raise self.found
        return self.found

    def attach(self, subject: Descriptor, manifest: NewBlob, blobs: list[NewBlob]) -> None:
        raise NotImplementedError

    def detach(self, subject: Descriptor, manifest: Descriptor) -> None:
        raise NotImplementedError

    def put(self, tag: str, manifests: list[NewBlob], blobs: list[NewBlob]) -> None:
        raise NotImplementedError


def test_the_last_answer_counts_while_the_registry_is_down(tmp_path: Path) -> None:
    registry = _Registry()
    store = Store(tmp_path / "cache")
    assert KeptReferrers(registry, store, "host/app").list_referrers(SUBJECT, "t") == [ARTIFACT]
    registry.found = RegistryError("down")
    assert KeptReferrers(registry, store, "host/app").list_referrers(SUBJECT, "t") == [ARTIFACT]
    for repository, kind in (("host/other", "t"), ("host/app", "other")):
        with pytest.raises(RegistryError, match="down"):
            KeptReferrers(registry, store, repository).list_referrers(SUBJECT, kind)
    registry.found = []
    assert KeptReferrers(registry, store, "host/app").list_referrers(SUBJECT, "t") == []
    registry.found = RegistryError("down")
    assert KeptReferrers(registry, store, "host/app").list_referrers(SUBJECT, "t") == []


@pytest.mark.parametrize("found", [[ARTIFACT], []])
def test_the_registry_is_not_asked_again(tmp_path: Path, found: list[Descriptor]) -> None:
    registry = _Registry()
    registry.found = found
    store = Store(tmp_path / "cache")
    for _ in range(2):
        kept = KeptReferrers(registry, store, "host/app", prefer_kept=True)
        assert kept.list_referrers(SUBJECT, "t") == found
        registry.found = RegistryError("down")


def test_a_damaged_answer_does_not_count(tmp_path: Path) -> None:
    registry = _Registry()
    store = Store(tmp_path / "cache")
    KeptReferrers(registry, store, "host/app").list_referrers(SUBJECT, "t")
    for path in (tmp_path / "cache").rglob("referrers*"):
        path.write_bytes(b"[{}]")
    registry.found = RegistryError("down")
    with pytest.raises(RegistryError):
        KeptReferrers(registry, store, "host/app").list_referrers(SUBJECT, "t")
