"""SOCI indexes: found beside an image or named by it, made of it, and whom they are believed."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ocifs.errors import InvalidImageError, UnsupportedError
from ocifs.image.opening import Image as OpenedImage
from ocifs.image.opening import open_image
from ocifs.indexes.soci import Version
from ocifs.indexes.soci_writer import convert_image, make_soci_index
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.layer.profile import Profile, Run
from ocifs.layer.verification import fetch_all, verify_blob, verify_index
from ocifs.options import Options
from ocifs.spec.artifact import referrers_tag
from ocifs.spec.digest import Digest
from ocifs.store import Store
from tests.images import (
    MANIFEST,
    Files,
    Image,
    Json,
    Layer,
    blob_path,
    digest,
    layout_files,
    tar,
    to_json,
    write_layout,
)
from tests.indexes.ztoc import independent
from tests.registry import Registry, serving, status

pytestmark = pytest.mark.usefixtures("alone")

V1, V2 = (f"application/vnd.amazon.soci.index.v{n}+json" for n in (1, 2))
RANDOM = random.Random(3)
BASE = Layer(tar({"etc": None, "etc/motd": b"hello\n", "big": RANDOM.randbytes(3_000_000), "last": b"last\n"}))
UPPER = Layer(tar({"upper": RANDOM.randbytes(300_000)}), "zstd")
PLAIN = Layer(tar({"plain": b"plain\n"}), "tar")
IMAGE = Image((BASE, UPPER, PLAIN))
ZTOCS = {layer.blob: independent.write(layer.blob, layer.tar) for layer in (BASE, PLAIN)}
TREE = [b"big", b"etc", b"etc/motd", b"last", b"plain", b"upper"]


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving(IMAGE) as registry:
        yield registry


@pytest.fixture
def reference(registry: Registry) -> str:
    return f"docker://{registry.host}/app"


ODD = independent.entries_of(BASE.tar)[0] | {"name": b"odd", "type": b"reg", "offset": 513}

# As others publish them


def described(data: bytes, layer: Layer, media_type: str = "application/octet-stream") -> Json:
    return {
        "mediaType": media_type,
        "digest": digest(data),
        "size": len(data),
        "annotations": {
            "com.amazon.soci.image-layer-digest": digest(layer.blob),
            "com.amazon.soci.image-layer-mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        },
    }


def soci_index(registry: Registry, artifact_type: str, *layers: Json, **changes: Any) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": artifact_type, "digest": digest(b"{}"), "size": 2},
        "layers": layers,
        "annotations": {"com.amazon.soci.build-tool-identifier": "AWS SOCI CLI v0.2"},
    }
    if artifact_type == V1:
        subject = registry.manifests["app"]["latest"].data
        document["subject"] = {"mediaType": MANIFEST, "digest": digest(subject), "size": len(subject)}
    return to_json(document | changes)


def add(registry: Registry, *blobs: bytes) -> None:
    registry.blobs["app"] |= {digest(each): each for each in blobs}


def publish_v1(registry: Registry, ztocs: dict[bytes, bytes] | None = None, **changes: Any) -> bytes:
    """Publish an index of version 1, as the snapshotter's tool does; return it."""
    ztocs = ZTOCS if ztocs is None else ztocs
    listed = [described(ztocs[each.blob], each) for each in IMAGE.layers if each.blob in ztocs]
    index = soci_index(registry, V1, *listed, **changes)
    add(registry, *ztocs.values(), index)
    return index


def publish_v2(registry: Registry, **changes: Any) -> str:
    """Convert the image, under the tag `soci`; return the digest of its manifest."""
    listed = [described(ZTOCS[each.blob], each) for each in (BASE, PLAIN)]
    index = soci_index(registry, V2, *listed, **changes)
    manifest = json.loads(registry.manifests["app"]["latest"].data)
    manifest["annotations"] = {"com.amazon.soci.index-digest": digest(index)}
    data = to_json(manifest)
    add(registry, *ZTOCS.values(), index, data)
    registry.manifests["app"]["soci"] = registry.manifests["app"]["latest"]._replace(data=data)
    return digest(data)


def published(image: OpenedImage) -> list[str | None]:
    return [layer.verification.published and layer.verification.published.split()[0] for layer in image.layers]


def fetched(registry: Registry, layer: Layer) -> list[str | None]:
    return [request.range for request in registry.sent if digest(layer.blob) in request.path]


def size_of(ranges: list[str | None]) -> int:
    total = 0
    for each in ranges:
        assert each is not None
        first, _, last = each.removeprefix("bytes=").partition("-")
        total += int(last) - int(first) + 1
    return total


def check_tree(image: OpenedImage) -> None:
    assert [path for path, _ in image.rootfs.walk() if path] == TREE
    assert image.rootfs.open("/etc/motd").read() == b"hello\n"
    assert image.rootfs.open("/plain").read() == b"plain\n"


@pytest.mark.parametrize("form", ["referrers API", "tag schema", "tag schema, without types"])
def test_version_1_is_used_for_a_tag(registry: Registry, reference: str, store: Store, form: str) -> None:
    index = publish_v1(registry)
    if form != "referrers API":
        registry.has_referrers = False
        subject = registry.manifests["app"]["latest"]
        listed: Json = {"mediaType": MANIFEST, "digest": digest(index), "size": len(index)}
        if form == "tag schema":
            listed["artifactType"] = V1
        document = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [listed]}
        registry.manifests["app"][referrers_tag(Digest.of(subject.data))] = subject._replace(data=to_json(document))
    told: list[str] = []
    with open_image(reference, Options(store=store, tell=told.append)) as image:
        assert published(image) == ["soci-v1", None, "soci-v1"]
        assert told == [
            f"layer {digest(each.blob)}: index soci-v1 {digest(ZTOCS[each.blob])}" for each in (BASE, PLAIN)
        ]
        assert size_of(fetched(registry, BASE)) == 4  # the size of the tar stream
        assert fetched(registry, UPPER) == [""]
        check_tree(image)
        assert image.rootfs.open("/last").read() == b"last\n"
    assert size_of(fetched(registry, BASE)) < len(BASE.blob) * 3 / 4


def test_a_ztoc_is_converted_once(registry: Registry, reference: str, store: Store) -> None:
    publish_v1(registry)
    for _ in range(2):
        with open_image(reference, Options(store=store)) as image:
            check_tree(image)
        assert {"converted1", "ptree4"} <= {entry.kind for entry in store.entries()}
    assert size_of(fetched(registry, BASE)) == 4 + size_of(fetched(registry, BASE)[1:])
    assert len([request for request in registry.sent if digest(ZTOCS[BASE.blob]) in request.path]) == 1


def test_what_was_converted_is_proven_like_any_other(registry: Registry, reference: str, store: Store) -> None:
    publish_v1(registry)
    with open_image(reference, Options(store=store)) as image:
        for layer in (image.layers[0], image.layers[2]):
            fetch_all(layer, lambda size: None)
            verify_blob(layer, lambda size: None)
            verify_index(layer, lambda size: None)


@pytest.mark.parametrize("trust", [None, True])
def test_for_a_digest_version_1_needs_the_users_trust(
    registry: Registry, reference: str, store: Store, trust: bool | None
) -> None:
    publish_v1(registry)
    by_digest = f"{reference}@{digest(registry.manifests['app']['latest'].data)}"
    registry.requests.clear()
    with open_image(by_digest, Options(store=store, trust_index=trust)) as image:
        assert published(image) == (["soci-v1", None, "soci-v1"] if trust else [None] * 3)
    assert any("/referrers/" in request.path for request in registry.requests) == bool(trust)


def test_who_trusts_none_gets_none(registry: Registry, reference: str, store: Store) -> None:
    by_digest = f"{reference}@{publish_v2(registry)}"
    for name in (by_digest, reference):
        with open_image(name, Options(store=store, trust_index=False)) as image:
            assert published(image) == [None] * 3
            check_tree(image)


def test_for_a_digest_version_2_is_bound(registry: Registry, reference: str, store: Store) -> None:
    by_digest = f"{reference}@{publish_v2(registry)}"
    with open_image(by_digest, Options(store=store)) as image:
        assert published(image) == ["soci-v2", None, "soci-v2"]
        assert all(
            isinstance(layer.blob, LazyBlob) == (layer.verification.published is not None) for layer in image.layers
        )
        check_tree(image)
    assert not any("/referrers/" in request.path for request in registry.requests)


def test_strict_believes_none(registry: Registry, reference: str, store: Store) -> None:
    by_digest = f"{reference}@{publish_v2(registry)}"
    with open_image(by_digest, Options(store=store, strict=True)) as image:
        assert published(image) == [None] * 3


def test_the_order_of_formats(registry: Registry, reference: str) -> None:
    with open_image(reference, Options(lazy=False)) as image:
        from ocifs.indexes.artifact import make_artifact

        manifest, blobs = make_artifact(image.resolved, image.indexes)
        image.source.referrers().attach(image.resolved.descriptor, manifest, blobs)
    publish_v1(registry)
    with open_image(reference) as image:
        assert published(image) == ["ocifs"] * 3
    for layer in manifest_layers(registry, manifest.descriptor.digest):
        if layer["annotations"]["vnd.ocifs.layer.digest"] == digest(BASE.blob):
            del registry.blobs["app"][layer["digest"]]
    warnings: list[str] = []
    with open_image(reference, Options(warn=warnings.append)) as image:
        assert published(image) == ["soci-v1", "ocifs", "ocifs"]
    assert len(warnings) == 1
    publish_v2(registry)
    with open_image(f"{reference}:soci") as image:
        assert published(image) == ["soci-v2", None, "soci-v2"]


def manifest_layers(registry: Registry, name: str) -> list[Any]:
    return list(json.loads(registry.blobs["app"][name])["layers"])


def test_what_is_wanted_first(registry: Registry, reference: str) -> None:
    prefetch = to_json({"version": "1.0", "prefetch_spans": [{"start_span": 1, "end_span": 1, "priority": 3}]})
    listed = [
        described(ZTOCS[BASE.blob], BASE),
        described(prefetch, BASE, "application/vnd.amazon.soci.prefetch.v1+json"),
    ]
    publish_v1(registry, layers=listed)
    add(registry, prefetch)
    with open_image(reference) as image:
        assert image.layers[0].prefetch == ((1, 1),)


# What is wrong with them


def complaints(reference: str, **options: Any) -> list[str]:
    """Open an image, which must do all the same; return what was warned of."""
    warnings: list[str] = []
    with open_image(reference, Options(warn=warnings.append, **options)) as image:
        assert published(image)[0] is None
        check_tree(image)
    return warnings


@pytest.mark.parametrize(
    ("ztoc", "message"),
    [
        (b"", "truncated"),
        (b"no zTOC" * 100, "truncated|vector|table"),
        (ZTOCS[BASE.blob][:-100], "truncated|longer than the file"),
        (ZTOCS[PLAIN.blob], "it describes a layer of 10240 bytes, but the layer has"),
        (independent.write(BASE.blob, BASE.tar, size=5), "more than one gzip member"),
        (independent.write(BASE.blob, BASE.tar, max_span_id=7), "digests for 8 spans"),
        (independent.write(BASE.blob, BASE.tar, entries=[ODD]), "entry 'odd': bytes outside the tar stream"),
    ],
)
def test_a_ztoc_that_cannot_be_true_is_left_out(
    registry: Registry, reference: str, tmp_path: Path, ztoc: bytes, message: str
) -> None:
    publish_v1(registry, {BASE.blob: ztoc})
    store = Store(tmp_path / "cache")
    (warning,) = complaints(reference, store=store)
    assert "converted1" not in {entry.kind for entry in store.entries()}
    assert warning.startswith(f"layer {digest(BASE.blob)}: its index soci-v1 {digest(ztoc)} is not used: ")
    assert pytest.importorskip("re").search(message, warning)


def test_a_ztoc_that_is_gone(registry: Registry, reference: str) -> None:
    publish_v1(registry, {BASE.blob: ZTOCS[BASE.blob]})
    del registry.blobs["app"][digest(ZTOCS[BASE.blob])]
    (warning,) = complaints(reference)
    assert "is not used: 127.0.0.1" in warning


def test_a_ztoc_that_is_too_large_is_not_fetched(registry: Registry, reference: str) -> None:
    listed = described(ZTOCS[BASE.blob], BASE) | {"size": 1 << 40}
    publish_v1(registry, layers=[listed])
    (warning,) = complaints(reference)
    assert "it has 1099511627776 bytes, more than" in warning
    assert not any(digest(ZTOCS[BASE.blob]) in request.path for request in registry.sent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subject": {"mediaType": MANIFEST, "digest": digest(b"x"), "size": 1}}, None),
        ({"layers": "none"}, "SOCI index sha256:"),
        ({"mediaType": "application/vnd.oci.artifact.manifest.v1+json"}, "is not the manifest of an artifact"),
        ({"layers": [{"mediaType": "application/octet-stream", "digest": digest(b"x"), "size": 1}]}, None),
    ],
)
def test_an_index_that_cannot_be_used(
    registry: Registry, reference: str, changes: dict[str, Any], message: str | None
) -> None:
    publish_v1(registry, **changes)
    warnings = complaints(reference)
    assert len(warnings) == (message is not None)
    assert all(message in warning for warning in warnings if message)


def test_one_index_that_is_wrong_does_not_hide_another(registry: Registry, reference: str) -> None:
    publish_v1(registry, layers="none", annotations={"much": "more than in the other" * 100})
    publish_v1(registry)
    with open_image(reference) as image:
        assert published(image) == ["soci-v1", None, "soci-v1"]


def test_not_any_number_of_indexes_is_looked_into(registry: Registry, reference: str) -> None:
    for number in range(40):
        publish_v1(registry, layers="none", annotations={"number": f"{number:03}"})
    registry.requests.clear()
    assert len(complaints(reference)) == 1
    assert len([each for each in registry.requests if "/manifests/sha256" in each.path]) == 16


def test_an_annotation_that_names_nothing(registry: Registry, reference: str) -> None:
    by_digest = f"{reference}@{publish_v2(registry)}"
    index = json.loads(registry.manifests["app"]["soci"].data)["annotations"]["com.amazon.soci.index-digest"]
    del registry.blobs["app"][index]
    (warning,) = complaints(by_digest)
    assert "an index of the format soci-v2 is not used" in warning


def test_an_annotation_that_names_an_index_of_version_1(registry: Registry, reference: str) -> None:
    by_digest = f"{reference}@{publish_v2(registry, config={'mediaType': V1, 'digest': digest(b'{}'), 'size': 2})}"
    (warning,) = complaints(by_digest)
    assert "is not of that version" in warning


def test_a_registry_whose_list_fails_is_asked_once(registry: Registry, reference: str) -> None:
    registry.fault(status(418), "/referrers/")
    assert len(complaints(reference)) == 1
    assert len([request for request in registry.requests if "/referrers/" in request.path]) == 1


def test_a_ztoc_that_lies_is_found_out(registry: Registry, reference: str) -> None:
    """Two files of equal length are swapped: every span is what it is said to be."""
    entries = independent.entries_of(LIE.tar)
    entries[0]["name"], entries[1]["name"] = entries[1]["name"], entries[0]["name"]
    registry.add("app", layout_files(Image((LIE,))))
    ztoc = independent.write(LIE.blob, LIE.tar, entries=entries)
    add(registry, ztoc, soci_index(registry, V1, described(ztoc, LIE)))
    with open_image(reference) as image:
        (layer,) = image.layers
        assert not layer.verification.is_verified
        assert image.rootfs.open("/one").read() == b"2"
        with pytest.raises(InvalidImageError, match="has other entries than its tar stream"):
            verify_index(layer, lambda size: None)


LIE = Layer(tar({"one": b"1", "two": b"2"}))


# As we publish them


def push(reference: str, version: Version, tag: str | None = None, min_layer_size: int = 0) -> list[str]:
    """Publish a SOCI index of an image; return what was warned of."""
    warnings: list[str] = []
    with open_image(reference, Options(lazy=False)) as image:
        made = make_soci_index(image.resolved, image.layers, version, min_layer_size, warnings.append)
        place = image.source.referrers()
        if tag is None:
            place.attach(image.resolved.descriptor, made.manifest, made.blobs)
        else:
            place.put(tag, [made.manifest, *convert_image(image.source, image.resolved, made)], made.blobs)
    return warnings


@pytest.mark.parametrize("has_referrers", [True, False])
def test_version_1_as_others_see_it(registry: Registry, reference: str, has_referrers: bool) -> None:
    registry.has_referrers = has_referrers
    (warning,) = push(reference, "soci-v1")
    assert warning.startswith(f"layer {digest(UPPER.blob)} is left out: SOCI cannot represent layers that are comp")
    subject = registry.manifests["app"]["latest"].data
    (name,) = [name for name, data in registry.blobs["app"].items() if b'"subject"' in data]
    document = json.loads(registry.blobs["app"][name])
    assert document["mediaType"] == MANIFEST
    assert document["config"] == {"mediaType": V1, "digest": digest(b"{}"), "size": 2}
    assert document["subject"] == {"mediaType": MANIFEST, "digest": digest(subject), "size": len(subject)}
    for layer, listed in zip((BASE, PLAIN), document["layers"], strict=True):
        assert listed["mediaType"] == "application/octet-stream"
        assert listed["annotations"]["com.amazon.soci.image-layer-digest"] == digest(layer.blob)
        suffix = "+gzip" if layer is BASE else ""
        assert listed["annotations"]["com.amazon.soci.image-layer-mediaType"].endswith(".tar" + suffix)
        data = registry.blobs["app"][listed["digest"]]
        assert (digest(data), len(data)) == (listed["digest"], listed["size"])
        ztoc = independent.decode(data)
        files = {each["name"].decode(): each for each in ztoc["entries"] if each["type"] == b"reg"}
        for path, content in {"big": None, "last": b"last\n", "plain": b"plain\n"}.items():
            if path in files:
                read = independent.read_file(layer.blob, ztoc, files[path])
                assert read == content or (content is None and len(read) == 3_000_000)
    with open_image(reference) as image:
        assert published(image) == ["soci-v1", None, "soci-v1"]
        check_tree(image)


def test_version_2_as_others_see_it(registry: Registry, reference: str) -> None:
    push(reference, "soci-v2", "soci")
    before = json.loads(registry.manifests["app"]["latest"].data)
    index = json.loads(registry.manifests["app"]["soci"].data)
    image_listed, soci_listed = index["manifests"]
    assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    assert image_listed["platform"]["architecture"] == soci_listed["platform"]["architecture"] == "amd64"
    assert soci_listed["artifactType"] == V2
    assert soci_listed["annotations"] == {"com.amazon.soci.image-manifest-digest": image_listed["digest"]}
    converted = json.loads(registry.blobs["app"][image_listed["digest"]])
    assert converted == before | {"annotations": {"com.amazon.soci.index-digest": soci_listed["digest"]}}
    document = json.loads(registry.blobs["app"][soci_listed["digest"]])
    assert document["config"]["mediaType"] == V2
    assert "subject" not in document
    assert registry.manifests["app"]["latest"].data == to_json(before)
    for name in (f"{reference}:soci", f"{reference}@{image_listed['digest']}"):
        with open_image(name) as image:
            assert published(image) == ["soci-v2", None, "soci-v2"]
            check_tree(image)


def test_dockers_media_types_become_ocis(registry: Registry, reference: str) -> None:
    files = layout_files(DOCKER)
    registry.add("app", files)
    push(reference, "soci-v2", "soci")
    image_listed = json.loads(registry.manifests["app"]["soci"].data)["manifests"][0]
    converted = json.loads(registry.blobs["app"][image_listed["digest"]])
    assert converted["mediaType"] == image_listed["mediaType"] == MANIFEST
    assert converted["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
    assert converted["annotations"]["kept"] == "yes"


DOCKER = Image(
    (BASE,),
    manifest={
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "annotations": {"kept": "yes"},
    },
)


def test_only_blobs_that_are_new_are_sent(registry: Registry, reference: str) -> None:
    push(reference, "soci-v1")
    registry.requests.clear()
    push(reference, "soci-v2", "soci")
    assert not [request for request in registry.requests if "uploads" in request.path]


def test_small_layers_are_left_out(registry: Registry, reference: str, tmp_path: Path) -> None:
    assert push(reference, "soci-v1", min_layer_size=1 << 20) == []
    with open_image(reference) as image:
        assert published(image) == ["soci-v1", None, None]
    with pytest.raises(UnsupportedError, match="has no layer of 10485760 bytes or more that SOCI can represent"):
        push(reference, "soci-v1", min_layer_size=10 << 20)


def test_what_was_recorded_is_of_the_spans_of_the_ztoc(tmp_path: Path) -> None:
    big = Layer(tar({"big": RANDOM.randbytes(9 << 20)}))
    layout = str(write_layout(tmp_path / "layout", Image((big,))))
    with open_image(layout) as image:
        last = image.indexes[0].span_count - 1
        profile: Profile = {digest(big.blob): (Run(0, 1), Run(last, last))}
        made = make_soci_index(image.resolved, image.layers, "soci-v1", 0, print, profile)
    _, ztoc, prefetch = [each.blob.pread(each.descriptor.size, 0) for each in made.blobs]
    of_ztoc = independent.decode(ztoc)["max_span_id"]
    assert 0 < of_ztoc < last
    spans = [{"start_span": 0, "end_span": 0}, {"start_span": of_ztoc, "end_span": of_ztoc}]
    assert json.loads(prefetch) == {"version": "1.0", "prefetch_spans": spans}


def test_a_layout_takes_both(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", IMAGE)
    before = json.loads((layout / "index.json").read_text())["manifests"]
    push(str(layout), "soci-v1")
    for _ in range(2):
        push(f"{layout}:latest", "soci-v2", "soci")
    listed = json.loads((layout / "index.json").read_text())["manifests"]
    assert listed[:1] == before
    assert [each.get("artifactType") for each in listed] == [None, V1, None]
    with open_image(f"{layout}:soci") as image:
        check_tree(image)
        assert image.resolved.manifest.annotations["com.amazon.soci.index-digest"]
    assert not list(layout.rglob(".ocifs-*"))


def test_what_a_layout_has_is_taken_to_a_registry(registry: Registry, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", IMAGE)
    push(str(layout), "soci-v2", "soci")
    files: Files = {str(path.relative_to(layout)): path.read_bytes() for path in layout.rglob("*") if path.is_file()}
    assert blob_path(digest(BASE.blob)) in files
    with open_image(f"{registry.add('copied', files)}:soci") as image:
        assert published(image) == ["soci-v2", None, "soci-v2"]
        check_tree(image)


def test_a_layer_whose_media_type_is_wrong_has_its_ztoc(store: Store) -> None:
    """The media type says an uncompressed tar, the bytes and the zTOC say gzip."""
    media_type = "application/vnd.oci.image.layer.v1.tar"
    mislabelled = Layer(BASE.tar, descriptor={"mediaType": media_type})
    with serving(Image((mislabelled, PLAIN))) as registry:
        publish_v1(registry)
        warnings: list[str] = []
        with open_image(f"docker://{registry.host}/app", Options(store=store, warn=warnings.append)) as image:
            assert published(image) == ["soci-v1", "soci-v1"]
            assert image.rootfs.open("/etc/motd").read() == b"hello\n"
            assert image.rootfs.open("/last").read() == b"last\n"
        assert warnings == [
            f"layer {digest(BASE.blob)}: its media type says an uncompressed tar, but its bytes are gzip"
        ]
