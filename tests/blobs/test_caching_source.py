"""Images from a registry: each blob is fetched once, and read while it arrives."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ocifs.blobs.download import BLOB
from ocifs.blobs.opening import open_cached
from ocifs.errors import InvalidImageError, NotFoundError
from ocifs.image.opening import open_image
from ocifs.image.verification import verify_image
from ocifs.options import Options
from ocifs.sources.reference import parse_reference
from ocifs.sources.registry.access import Access
from ocifs.spec.digest import Digest
from ocifs.store import Store
from tests.blobs.test_download import Scripted, begun
from tests.images import Image, Layer, layout_files, tar
from tests.registry import SECRET, Registry, cut, redirect, running, serving, slowly, status, wrong_bytes

pytestmark = pytest.mark.usefixtures("alone")

BIG = tar({f"file{number}": bytes([number]) * 400_000 for number in range(5)})


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving(Image((Layer(BIG), Layer(BIG, "zstd"), Layer(BIG, "tar"), Layer(BIG)))) as registry:
        yield registry


@pytest.fixture
def reference(registry: Registry) -> str:
    return f"docker://{registry.host}/app"


def content(reference: str, store: Store, access: Access | None = None) -> bytes:
    with open_image(reference, Options(store=store, access=access or Access())) as image:
        return b"".join(image.rootfs.open(f"/file{number}").read(1) for number in range(5))


def test_each_blob_is_fetched_once(registry: Registry, reference: str, store: Store) -> None:
    assert content(reference, store) == bytes(range(5))
    paths = [request.path for request in registry.sent]
    assert len(paths) == len(set(paths)) == 4  # a config, and three layers, one of them twice in the image
    registry.requests.clear()
    assert content(reference, store) == bytes(range(5))
    assert [request.path for request in registry.requests if request.path != "/v2/"] == ["/v2/app/manifests/latest"]


def test_downloads_are_reported(reference: str, store: Store) -> None:
    told: list[tuple[Digest, int, int]] = []
    with open_image(reference, Options(store=store, downloading=lambda *how_far: told.append(how_far))):
        pass
    ends = {blob: (done, total) for blob, done, total in told}
    assert Digest.of(Layer(BIG, "tar").blob) in ends
    assert all(done == total for done, total in ends.values())
    assert any(done < total for _, done, total in told)


def test_a_digest_that_was_seen_needs_no_network(registry: Registry, reference: str, store: Store) -> None:
    content(reference, store)
    digest = Digest.of(registry.manifests["app"]["latest"].data)
    registry.requests.clear()
    registry.fault(status(500), "")
    assert content(f"{reference}@{digest}", store) == bytes(range(5))
    assert not registry.requests


def test_blobs_that_are_gone_from_the_cache_are_fetched_again(
    registry: Registry, reference: str, store: Store, tmp_path: Path
) -> None:
    content(reference, store)
    for path in (tmp_path / "cache/entries").glob("blob*"):
        path.unlink()
    assert content(reference, store) == bytes(range(5))


def test_a_document_replaces_what_is_left_of_its_download(registry: Registry, reference: str, store: Store) -> None:
    manifest = registry.manifests["app"]["latest"].data
    begun(store, Scripted(manifest), b"{ left")
    assert content(reference, store) == bytes(range(5))
    assert content(f"{reference}@{Digest.of(manifest)}", store) == bytes(range(5))


def test_cuts_and_errors_on_the_way(registry: Registry, reference: str, store: Store) -> None:
    registry.fault(cut(700), times=6)
    registry.fault(status(503), times=3)
    assert content(reference, store) == bytes(range(5))


def test_wrong_bytes_make_no_image(registry: Registry, reference: str, store: Store) -> None:
    layer = Digest.of(Layer(BIG, "tar").blob)
    registry.fault(wrong_bytes, str(layer))
    with pytest.raises(InvalidImageError):
        content(reference, store)
    assert store.load(BLOB, layer) is None
    assert not any(entry.subject.startswith(layer) for entry in store.entries())  # another download may have begun
    registry.faults.clear()
    assert content(reference, store) == bytes(range(5))


def test_wrong_bytes_of_a_mirror(
    registry: Registry, reference: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running() as mirror:
        mirror.blobs, mirror.manifests = registry.blobs, registry.manifests
        mirror.fault(wrong_bytes)
        (tmp_path / "registries.conf").write_text(
            f'[[registry]]\nlocation = "{registry.host}"\n[[registry.mirror]]\nlocation = "{mirror.host}"\n'
            "insecure = true\n"
        )
        monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
        assert content(reference, store) == bytes(range(5))
        assert len(mirror.sent) == len(registry.sent) == 4  # a config and three layers of each
        assert content(reference, store) == bytes(range(5))
        assert [check.problem for check in verify_image(reference, Options(store=store))] == [None] * 9
        registry.fault(wrong_bytes)
        with pytest.raises(InvalidImageError):
            content(reference, Store(tmp_path / "other"))
        manifest = Digest.of(registry.manifests["app"]["latest"].data)
        assert [entry.subject for entry in Store(tmp_path / "other").entries()] == [manifest]


def test_a_layer_that_is_missing(registry: Registry, reference: str, store: Store) -> None:
    del registry.blobs["app"][str(Digest.of(Layer(BIG, "zstd").blob))]
    with pytest.raises(NotFoundError, match=r"layer sha256:\w+: 127.* has no blob sha256"):
        content(reference, store)


def test_verify(registry: Registry, reference: str, store: Store) -> None:
    content(reference, store)
    assert [check.problem for check in verify_image(reference, Options(store=store))] == [None] * 9
    del registry.blobs["app"][str(Digest.of(Layer(BIG, "tar").blob))]
    problems = [check.problem for check in verify_image(reference, Options(store=Store(None)))]
    assert len([problem for problem in problems if problem and "has no blob" in problem]) == 2


def test_a_size_that_is_not_the_descriptors(registry: Registry, store: Store) -> None:
    files = layout_files(Image((Layer(descriptor={"size": 7}),)))
    reference = registry.add("sized", files)
    with pytest.raises(InvalidImageError, match="of another size than its descriptor says"):
        content(reference, store)


def test_closing_does_not_wait_for_the_network(registry: Registry, reference: str, store: Store) -> None:
    registry.fault(slowly(1000), str(Digest.of(Layer(BIG, "tar").blob)))
    source = open_cached(parse_reference(reference), store)
    (descriptor,) = source.resolve(parse_reference(reference))
    source.open(descriptor)
    source.close()


def test_no_secret_is_kept(registry: Registry, reference: str, store: Store, tmp_path: Path) -> None:
    with running() as signed:
        signed.blobs = registry.blobs
        registry.fault(redirect(signed.base + "{path}?signature=" + SECRET))
        content(reference, store, Access(credentials="me:s3cr3t-password"))
        assert any(SECRET in request.path for request in signed.requests)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"s3cr3t" not in path.read_bytes()
