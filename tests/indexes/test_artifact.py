"""Indexes that travel with an image, and whom they are believed."""

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ocifs.errors import InvalidImageError, NotFoundError, UnsupportedError
from ocifs.image.opening import Image as OpenedImage
from ocifs.image.opening import open_image
from ocifs.indexes.artifact import (
    ARTIFACT_TYPE,
    indexes_in,
    list_artifacts,
    make_artifact,
)
from ocifs.layer.index import LayerIndex, open_index
from ocifs.layer.index_format import KIND, encode_tail
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.options import Options
from ocifs.reader import BytesReader
from ocifs.sources.referrers import NewBlob
from ocifs.sources.resolve import resolve_image
from ocifs.spec.artifact import referrers_tag
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest
from ocifs.store import Store
from tests.images import (
    INDEX,
    MANIFEST,
    Image,
    Layer,
    digest,
    tar,
    to_json,
    write_layout,
    write_oci_archive,
)
from tests.registry import SECRET, Registry, basic, serving, status

pytestmark = pytest.mark.usefixtures("alone")

BASE = Layer(tar({"etc": None, "etc/motd": b"hello\n", "big": bytes(range(256)) * 12_000}))
UPPER = Layer(tar({"upper": b"x" * 3_000_000}), "zstd")
PLAIN = Layer(tar({"plain": b"plain\n"}), "tar")
IMAGE = Image((BASE, UPPER, PLAIN))


@pytest.fixture(params=["referrers API", "tag schema"])
def registry(request: pytest.FixtureRequest) -> Iterator[Registry]:
    with serving(IMAGE) as registry:
        registry.has_referrers = request.param == "referrers API"
        yield registry


@pytest.fixture
def reference(registry: Registry) -> str:
    return f"docker://{registry.host}/app"


def push(reference: str) -> None:
    with open_image(reference, Options(lazy=False)) as image:
        manifest, blobs = make_artifact(image.resolved, image.indexes)
        image.source.referrers().attach(image.resolved.descriptor, manifest, blobs)


def fetched(registry: Registry) -> set[str]:
    """The blobs of layers that were asked for, in whole or in part."""
    names = {str(Digest.of(layer.blob)) for layer in IMAGE.layers}
    return {request.path.rpartition("/")[2] for request in registry.sent} & names


def claims(image: OpenedImage) -> list[bool]:
    return [not layer.verification.is_verified for layer in image.layers]


def test_for_a_tag_only_what_is_read_is_fetched(registry: Registry, reference: str, store: Store) -> None:
    push(reference)
    registry.requests.clear()
    with open_image(reference, Options(store=store)) as image:
        assert claims(image) == [True, True, True]
        assert [path for path, _ in image.rootfs.walk() if path] == [b"big", b"etc", b"etc/motd", b"plain", b"upper"]
        assert not fetched(registry)
        assert image.rootfs.open("/etc/motd").read() == b"hello\n"
        assert fetched(registry) == {str(Digest.of(BASE.blob))}
        assert all(
            request.range for request in registry.sent if BASE.blob and str(Digest.of(BASE.blob)) in request.path
        )
    registry.requests.clear()
    with open_image(reference, Options(store=store)) as image:
        assert image.rootfs.open("/etc/motd").read() == b"hello\n"
        assert not fetched(registry)


def test_for_a_digest_all_is_fetched_and_proven(registry: Registry, reference: str, store: Store) -> None:
    push(reference)
    by_digest = f"{reference}@{Digest.of(registry.manifests['app']['latest'].data)}"
    with open_image(by_digest, Options(store=store)) as image:
        assert claims(image) == [False, False, False]
    assert not list((store.directory or Path()).glob("entries/p*"))


@pytest.mark.parametrize(("trust", "by_digest", "expected"), [(True, True, True), (False, False, False)])
def test_the_user_has_the_last_word(
    registry: Registry, reference: str, store: Store, trust: bool, by_digest: bool, expected: bool
) -> None:
    push(reference)
    if by_digest:
        reference = f"{reference}@{Digest.of(registry.manifests['app']['latest'].data)}"
    with open_image(reference, Options(store=store, trust_index=trust)) as image:
        assert claims(image) == [expected] * 3


def test_strict_believes_nothing(reference: str, store: Store) -> None:
    push(reference)
    with open_image(reference, Options(store=store, strict=True)) as image:
        assert claims(image) == [False] * 3


def test_what_is_proven_here_needs_no_index_from_elsewhere(registry: Registry, reference: str, store: Store) -> None:
    with open_image(reference, Options(store=store)):
        pass
    for path in (store.directory or Path()).glob("entries/blob*"):
        path.unlink()
    registry.requests.clear()
    with open_image(reference, Options(store=store)) as image:
        assert claims(image) == [False] * 3
        assert isinstance(image.layers[0].blob, LazyBlob)
        assert image.rootfs.open("/plain").read() == b"plain\n"
    assert fetched(registry) == {str(Digest.of(PLAIN.blob))}


def test_what_is_claimed_is_kept_apart_from_what_is_proven(reference: str, store: Store) -> None:
    push(reference)
    with open_image(reference, Options(store=store)):
        kinds = {entry.kind for entry in store.entries()}
    assert not {"layer2", "tree4"} & kinds
    with open_image(reference, Options(store=store, lazy=False)) as image:
        assert claims(image) == [False] * 3
    assert {"layer2", "tree4"} <= {entry.kind for entry in store.entries()}


def test_a_list_of_nothing_may_be_null(registry: Registry, reference: str, store: Store) -> None:
    """Programs in Go write it so."""
    nothing = to_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": None})
    registry.fault(lambda handler, blob: handler.answer(200, nothing), "/referrers/|/manifests/sha256-")
    warnings: list[str] = []
    with open_image(reference, Options(store=store, warn=warnings.append)) as image:
        assert claims(image) == [False] * 3
    assert warnings == []


def test_an_artifact_may_have_null_for_what_it_lacks(registry: Registry, reference: str) -> None:
    with open_image(reference) as image:
        descriptor = image.resolved.descriptor
        data = to_json(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "artifactType": ARTIFACT_TYPE,
                "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2},
                "layers": None,
                "subject": {"mediaType": MANIFEST, "digest": descriptor.digest, "size": descriptor.size, "urls": None},
                "annotations": None,
            }
        )
        artifact = Descriptor(media_type=MANIFEST, digest=Digest.of(data), size=len(data))
        image.source.referrers().attach(descriptor, NewBlob(artifact, BytesReader(data)), [])
        listed = list_artifacts(image.source, image.resolved)
        assert [each.digest for each in listed] == [artifact.digest]
        assert indexes_in(image.source, listed[0], image.digest) == []


def test_pushing_twice_makes_one(reference: str, registry: Registry) -> None:
    push(reference)
    push(reference)
    with open_image(reference) as image:
        artifacts = list_artifacts(image.source, image.resolved)
        assert len(artifacts) == 1
        image.source.referrers().detach(image.resolved.descriptor, artifacts[0])
        assert not list_artifacts(image.source, image.resolved)
    if not registry.has_referrers:
        tag = referrers_tag(Digest.of(registry.manifests["app"]["latest"].data))
        assert json.loads(registry.manifests["app"][tag].data)["manifests"] == []


def test_other_artifacts_are_let_be(reference: str, registry: Registry) -> None:
    other = {"mediaType": "application/x", "digest": str(Digest.of(b"x")), "size": 1, "artifactType": "application/x"}
    tag = referrers_tag(Digest.of(registry.manifests["app"]["latest"].data))
    registry.has_referrers = False
    document = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [other]}
    registry.manifests["app"][tag] = registry.manifests["app"]["latest"]._replace(data=json.dumps(document).encode())
    push(reference)
    listed = json.loads(registry.manifests["app"][tag].data)["manifests"]
    assert [each["artifactType"] for each in listed] == ["application/x", ARTIFACT_TYPE]
    assert listed[0] == other


def test_pushing_needs_the_right_to(reference: str, registry: Registry) -> None:
    registry.fault(basic("me", "pw"), "uploads|/manifests/sha256")
    with open_image(reference, Options(lazy=False)) as image:
        manifest, blobs = make_artifact(image.resolved, image.indexes)
        with pytest.raises(Exception, match="requires a login") as caught:
            image.source.referrers().attach(image.resolved.descriptor, manifest, blobs)
        assert SECRET not in str(caught.value)


# What others publish


def publish(registry: Registry, index: bytes, layer: Layer = BASE, **changes: object) -> None:
    """Publish an index for one layer, as another client might."""
    subject = registry.manifests["app"]["latest"].data
    descriptor = {
        "mediaType": "application/vnd.ocifs.layer-index.v2",
        "digest": str(Digest.of(index)),
        "size": len(index),
        "annotations": {"vnd.ocifs.layer.digest": str(Digest.of(layer.blob))},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": ARTIFACT_TYPE,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": str(Digest.of(b"{}")), "size": 2},
        "layers": [descriptor],
        "subject": {"mediaType": "x", "digest": str(Digest.of(subject)), "size": len(subject)},
    } | changes
    data = json.dumps(manifest).encode()
    registry.has_referrers = True
    registry.blobs["app"] |= {str(Digest.of(each)): each for each in (index, data)}


def true_index() -> LayerIndex:
    return open_index(BytesReader(index_bytes()))  # type: ignore[arg-type]


def index_bytes() -> bytes:
    from ocifs.layer.build import LayerBlob, open_layer_index
    from ocifs.limits import DEFAULT_LIMITS
    from ocifs.spec.digest import DiffID

    blob = LayerBlob(Digest.of(BASE.blob), DiffID(Digest.of(BASE.tar)), BytesReader(BASE.blob))
    index = open_layer_index(blob, Store(None), DEFAULT_LIMITS, lambda message: None, lambda *_: None)
    return index.file.pread(index.file.size, 0)


def altered(**changes: object) -> bytes:
    """The index of BASE with another summary."""
    index = true_index()
    data = index.file.pread(index.data_size, 0)
    return data + encode_tail(index.toc(), msgspec.structs.replace(index.summary, **changes), len(data))


def with_entries(**changes: object) -> bytes:
    """The index of BASE, of which the last entry is another."""
    index = true_index()
    data = index.file.pread(index.data_size, 0)
    *entries, last = index.toc()
    return data + encode_tail([*entries, msgspec.structs.replace(last, **changes)], index.summary, len(data))


def complaints(reference: str, store: Store) -> list[str]:
    """Open an image, which must do all the same; return what was warned of."""
    warnings: list[str] = []
    with open_image(reference, Options(store=store, warn=warnings.append)) as image:
        assert image.rootfs.open("/etc/motd").read() == b"hello\n"
        assert claims(image) == [False] * 3
    return warnings


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (lambda: b"", "its index ocifs sha256:.* is not used"),
        (lambda: b"no index at all" * 100, "its index ocifs sha256:.* is not used"),
        (lambda: index_bytes()[:-1], "its index ocifs sha256:.* is not used"),
        (lambda: altered(blob_size=5), "contradict|another layer"),
        (lambda: altered(blob_digest=str(Digest.of(b"other"))), "the index is of another layer"),
        (lambda: altered(diff_id=str(Digest.of(b"other"))), "the index is of another layer"),
        (lambda: altered(codec="zstd"), "another compression"),
        (lambda: altered(size=5), "contradict each other"),
        (lambda: with_entries(offset=1 << 40), "outside the tar stream"),
        (lambda: with_entries(mode=-1), "an invalid kind, mode or time"),
        (lambda: with_entries(path=b""), "entry ''"),
    ],
)
def test_an_index_that_cannot_be_true_is_left_out(
    registry: Registry, reference: str, store: Store, index: object, message: str
) -> None:
    publish(registry, index())  # type: ignore[operator]
    (warning,) = complaints(reference, store)
    assert pytest.importorskip("re").search(message, warning)


def test_artifacts_that_cannot_be_used(registry: Registry, reference: str, store: Store) -> None:
    publish(registry, index_bytes(), layers="none")
    (warning,) = complaints(reference, store)
    assert "an index of the format ocifs is not used: index artifact sha256:" in warning


def test_an_artifact_of_another_type_is_none(registry: Registry, reference: str, store: Store) -> None:
    publish(registry, index_bytes(), artifactType="application/x")
    assert complaints(reference, store) == []


def test_an_index_that_is_gone(registry: Registry, reference: str, store: Store) -> None:
    index = index_bytes()
    publish(registry, index)
    del registry.blobs["app"][str(Digest.of(index))]
    (warning,) = complaints(reference, store)
    assert "is not used: 127.0.0.1" in warning


def test_referrers_that_fail(registry: Registry, reference: str, store: Store) -> None:
    registry.fault(status(418), "/referrers/")
    (warning,) = complaints(reference, store)
    assert "an index of the format ocifs is not used: 127.0.0.1" in warning


def test_of_several_always_the_same_is_taken(registry: Registry, reference: str) -> None:
    publish(registry, index_bytes())
    publish(registry, altered(warnings=("another",)))
    with open_image(reference) as image:
        first, second = list_artifacts(image.source, image.resolved)
        assert (-first.size, first.digest) < (-second.size, second.digest)
        assert claims(image) == [True, False, False]


def test_a_lie_gives_an_error_and_no_other_bytes(registry: Registry, reference: str, store: Store) -> None:
    """The index points to other bytes: their digest says so, or reading them does."""
    digests = bytearray(true_index().summary.digests)
    digests[0] ^= 1
    publish(registry, altered(digests=bytes(digests)))
    with open_image(reference, Options(store=store)) as image:
        assert claims(image)[0]
        with pytest.raises(InvalidImageError, match="the registry returns other bytes"):
            image.rootfs.open("/etc/motd").read()


# In a layout


def test_a_layout_takes_an_index_and_stays_what_it_was(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", IMAGE)
    before = json.loads((layout / "index.json").read_text())["manifests"]
    for _ in range(2):
        push(str(layout))
    listed = json.loads((layout / "index.json").read_text())["manifests"]
    assert listed[:-1] == before
    assert listed[-1]["artifactType"] == ARTIFACT_TYPE
    with open_image(str(layout)) as image:  # still the only image
        (artifact,) = list_artifacts(image.source, image.resolved)
        assert len(indexes_in(image.source, artifact, image.digest)) == 3
        image.source.referrers().detach(image.resolved.descriptor, artifact)
    assert json.loads((layout / "index.json").read_text())["manifests"] == before
    assert not list(layout.rglob(".ocifs-*"))


def test_an_archive_takes_none(tmp_path: Path) -> None:
    archive = write_oci_archive(tmp_path / "image.tar", IMAGE)
    with pytest.raises(UnsupportedError, match="it is an archive: use a layout directory"):
        push(str(archive))


def test_reframed_indexes_are_not_published(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", Image((Layer(tar({"long": bytes(9 << 20)}), "zstd"), BASE)))
    with open_image(str(layout)) as image:
        manifest, blobs = make_artifact(image.resolved, image.indexes)
        document = json.loads(manifest.blob.pread(manifest.descriptor.size, 0))
    assert [layer["annotations"]["vnd.ocifs.layer.digest"] for layer in document["layers"]] == [
        str(Digest.of(BASE.blob))
    ]
    assert len(blobs) == 2


def test_nothing_is_published_of_what_is_not_there(registry: Registry) -> None:
    from ocifs.blobs.opening import open_cached
    from ocifs.sources.reference import parse_reference

    reference = parse_reference(f"docker://{registry.host}/none")
    source = open_cached(reference, Store(None))
    with pytest.raises(NotFoundError):
        resolve_image(source, reference)
    source.close()
    assert KIND.version == 2  # part of the media type of a published index
