from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocifs.errors import InvalidImageError, OcifsError, UnsupportedError
from ocifs.spec.digest import Digest
from ocifs.spec.manifest import ImageIndex, Manifest, parse_document, parse_index
from ocifs.spec.platform import Platform
from tests.images import CONFIG, INDEX, LAYER, MANIFEST, Json, to_json

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
X = Digest.of(b"x")


def described(**members: object) -> Json:
    return {"mediaType": LAYER, "digest": X, "size": 1} | members


def manifest(**members: object) -> Json:
    return {"schemaVersion": 2, "config": described(mediaType=CONFIG), "layers": [described()]} | members


def index(**members: object) -> Json:
    return {"schemaVersion": 2, "manifests": [described(mediaType=MANIFEST)]} | members


@pytest.mark.parametrize(
    ("document", "media_type", "expected"),
    [
        (manifest(), None, MANIFEST),
        (manifest(), MANIFEST, MANIFEST),
        (manifest(mediaType=MANIFEST), MANIFEST, MANIFEST),
        (manifest(mediaType=DOCKER_MANIFEST), DOCKER_MANIFEST, DOCKER_MANIFEST),
        (manifest(), DOCKER_MANIFEST, DOCKER_MANIFEST),
        (index(), None, INDEX),
        (index(mediaType=INDEX), INDEX, INDEX),
        (index(mediaType=DOCKER_INDEX), None, DOCKER_INDEX),
        (manifest(mediaType=DOCKER_MANIFEST), MANIFEST, DOCKER_MANIFEST),
        (manifest(mediaType=MANIFEST), DOCKER_MANIFEST, MANIFEST),
        (index(mediaType=DOCKER_INDEX), INDEX, DOCKER_INDEX),
    ],
)
def test_kinds(document: Json, media_type: str | None, expected: str) -> None:
    parsed = parse_document(to_json(document), "x", media_type)
    assert parsed.media_type == expected
    assert isinstance(parsed, ImageIndex if "manifests" in document else Manifest)


@pytest.mark.parametrize(
    ("document", "media_type"), [(index(manifests=None), INDEX), (index(manifests=None, mediaType=INDEX), None)]
)
def test_an_index_of_nothing(document: Json, media_type: str | None) -> None:
    parsed = parse_document(to_json(document), "x", media_type)
    assert isinstance(parsed, ImageIndex)
    assert parsed.manifests == ()


@pytest.mark.parametrize(
    ("document", "error", "message"),
    [
        (manifest(), InvalidImageError, "document x is a manifest, not an image index"),
        (manifest(config=None), InvalidImageError, "document x is a manifest, not an image index"),
        (index(mediaType=MANIFEST), InvalidImageError, "document x is a manifest, not an image index"),
        (
            index(mediaType="text/plain"),
            InvalidImageError,
            "says its media type is 'text/plain', which is not an image",
        ),
        (index(manifests=5), InvalidImageError, "manifests"),
        (index(schemaVersion=1), UnsupportedError, "schema 1"),
        ({}, InvalidImageError, "schemaVersion"),
        ([], InvalidImageError, "not a JSON object"),
    ],
)
def test_an_index_by_its_place(document: object, error: type[OcifsError], message: str) -> None:
    with pytest.raises(error, match=message):
        parse_index(to_json(document), "document x")


@pytest.mark.parametrize("media_type", [None, INDEX, DOCKER_INDEX])
@pytest.mark.parametrize("manifests", [[], None, [described(mediaType=MANIFEST)]])
def test_an_index_by_its_place_needs_little(media_type: str | None, manifests: list[Json] | None) -> None:
    parsed = parse_index(to_json(index(manifests=manifests, mediaType=media_type)), "x")
    assert len(parsed.manifests) == len(manifests or [])


@pytest.mark.parametrize("layers", [{"layers": []}, {"layers": None}])
def test_no_layers(layers: Json) -> None:
    parsed = parse_document(to_json(manifest(**layers)), "x")
    assert isinstance(parsed, Manifest)
    assert parsed.layers == ()


def test_descriptor() -> None:
    platform = {"os": "linux", "architecture": "arm", "variant": "v7", "os.version": "1"}
    members = {"urls": ["u"], "annotations": {"a": "b"}, "data": "eA==", "platform": platform, "artifactType": "t"}
    parsed = parse_document(to_json(index(manifests=[described(**members)])), "x")
    assert isinstance(parsed, ImageIndex)
    (descriptor,) = parsed.manifests
    assert descriptor.digest == X
    assert isinstance(descriptor.digest, Digest)
    assert (descriptor.media_type, descriptor.size, descriptor.urls) == (LAYER, 1, ("u",))
    assert (descriptor.annotations, descriptor.data, descriptor.artifact_type) == ({"a": "b"}, b"x", "t")
    assert descriptor.platform == Platform("linux", "arm", "v7")


@pytest.mark.parametrize(
    ("document", "media_type", "error", "message"),
    [
        ([], None, InvalidImageError, "not a JSON object"),
        ({}, None, InvalidImageError, "neither an image index nor a manifest"),
        (index(schemaVersion=None), None, InvalidImageError, "schemaVersion"),
        (manifest(Manifests=[]), None, InvalidImageError, "both an image index and a manifest"),
        (index(LAYERS=[]), None, InvalidImageError, "both an image index and a manifest"),
        (manifest(Config={}), None, InvalidImageError, "key 'config' occurs twice"),
        (manifest(layers=[described(Size=1)]), None, InvalidImageError, "key 'size' occurs twice"),
        (manifest(manifests=[]), None, InvalidImageError, "both an image index and a manifest"),
        (index(layers=[]), None, InvalidImageError, "both an image index and a manifest"),
        (index(config={}), INDEX, InvalidImageError, "both an image index and a manifest"),
        (manifest(mediaType=INDEX), MANIFEST, InvalidImageError, "its descriptor says"),
        (manifest(mediaType=INDEX), INDEX, InvalidImageError, "other kind"),
        (manifest(), INDEX, InvalidImageError, "other kind"),
        (index(), MANIFEST, InvalidImageError, "other kind"),
        (index(mediaType=MANIFEST), None, InvalidImageError, "other kind"),
        (manifest(mediaType="text/\x1b"), None, UnsupportedError, "not an image manifest or index"),
        (manifest(mediaType=[]), None, InvalidImageError, "mediaType"),
        (manifest(schemaVersion=1), None, UnsupportedError, "schema 1"),
        (manifest(schemaVersion=3), None, InvalidImageError, "schemaVersion"),
        (manifest(schemaVersion="2"), None, InvalidImageError, "schemaVersion"),
        (manifest(layers={}), None, InvalidImageError, "layers"),
        (manifest(config=None), None, InvalidImageError, "config"),
        (index(manifests=None), None, InvalidImageError, "neither"),
        (index(manifests=None), MANIFEST, InvalidImageError, "neither"),
        (
            manifest(mediaType="application/vnd.oci.artifact.manifest.v1+json"),
            None,
            UnsupportedError,
            "an artifact man",
        ),
        (manifest(mediaType="x", artifactType="y\n"), None, UnsupportedError, r"an artifact of the type 'y\\n', not a"),
        (index(manifests=5), None, InvalidImageError, "manifests"),
    ],
)
def test_refused(document: object, media_type: str | None, error: type[OcifsError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        parse_document(to_json(document), "document x", media_type)
    assert str(caught.value).startswith("document x ")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "members",
    [
        {"size": -1},
        {"size": True},
        {"size": 1.0},
        {"size": "1"},
        {"size": 2**63},
        {"size": None},
        {"digest": "sha256:../../x"},
        {"digest": "sha256:" + "A" * 64},
        {"digest": 5},
        {"digest": None},
        {"mediaType": None},
        {"annotations": {"a": 1}},
        {"annotations": ["a"]},
        {"data": "!"},
        {"platform": "linux"},
        {"urls": "u"},
    ],
)
def test_malformed_descriptors(members: Json) -> None:
    with pytest.raises(InvalidImageError, match=r"x is malformed: .*\$\.layers\[0\]"):
        parse_document(to_json(manifest(layers=[described(**members)])), "x")


def test_largest_size() -> None:
    parsed = parse_document(to_json(manifest(layers=[described(size=2**63 - 1)])), "x")
    assert isinstance(parsed, Manifest)
    assert parsed.layers[0].size == 2**63 - 1


def test_unknown_digest_algorithm_is_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="unsupported digest algorithm 'md5'"):
        parse_document(to_json(manifest(layers=[described(digest="md5:00")])), "x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([X, LAYER, INDEX]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
MEMBER = st.sampled_from(["schemaVersion", "mediaType", "config", "layers", "manifests", "annotations"])
DESCRIBED = st.sampled_from(["mediaType", "digest", "size", "urls", "annotations", "data", "platform"])


@given(st.sampled_from([manifest, index]), MEMBER, DESCRIBED, JSON, st.booleans())
def test_any_document_ends_in_a_value_or_one_error(
    make: Callable[..., Json], member: str, inner: str, value: object, deep: bool
) -> None:
    document = make(**{member: [described(**{inner: value})] if deep else value})
    with suppress(OcifsError):
        parse_document(to_json(document), "x")
