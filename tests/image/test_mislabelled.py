"""Layers whose media type says another compression than their bytes: the bytes decide, the same cold and warm."""

import random
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest

from ocifs.errors import InvalidImageError
from ocifs.image.opening import open_image
from ocifs.image.verification import verify_image
from ocifs.indexes.artifact import make_artifact
from ocifs.options import Options
from ocifs.spec.mediatypes import COMPRESSIONS, Compression
from ocifs.store import Store
from tests.images import LAYER, Image, Layer, blob_path, digest, layout_files, tar, write_directory, write_layout
from tests.registry import Registry, serving

pytestmark = pytest.mark.usefixtures("alone")

TAR = tar({"a": b"same", "b": b"bytes"})
LONG = tar({"long": random.Random(1).randbytes(9 << 20)})
"""As zstd one frame, longer than a span may be."""
ALL: tuple[Compression, ...] = ("tar", "gzip", "zstd")
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"


def media_type(compression: Compression) -> str:
    return LAYER if compression == "tar" else f"{LAYER}+{compression}"


def labelled(stated: Compression, actual: Compression, data: bytes = TAR) -> Layer:
    return Layer(data, actual, descriptor={"mediaType": media_type(stated)})


def said(layer: Layer, stated: Compression) -> str:
    return (
        f"layer {digest(layer.blob)}: its media type says {COMPRESSIONS[stated]}, "
        f"but its bytes are {COMPRESSIONS[layer.compression]}"
    )


def opened(image: Path | str, store: Store) -> tuple[list[bytes], list[str]]:
    """Return the names in an image, and what was warned of."""
    warnings: list[str] = []
    with open_image(image, Options(store=store, warn=warnings.append)) as opened:
        for path, _ in opened.rootfs.walk():
            if path:
                opened.rootfs.open(path).read()
        return [path for path, _ in opened.rootfs.walk() if path], warnings


@pytest.fixture(params=["on disk", "in memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(tmp_path / "cache" if request.param == "on disk" else None)


@pytest.mark.parametrize(("stated", "actual"), list(permutations(ALL, 2)))
def test_the_bytes_decide(tmp_path: Path, store: Store, stated: Compression, actual: Compression) -> None:
    layer = labelled(stated, actual)
    image = write_layout(tmp_path / "image", Image((layer,)))
    for _ in range(2):
        assert opened(image, store) == ([b"a", b"b"], [said(layer, stated)])


@pytest.mark.parametrize("stated", ["tar", "gzip"])
def test_a_reframed_layer_remembers_how_its_blob_is_compressed(tmp_path: Path, stated: Compression) -> None:
    layer = labelled(stated, "zstd", LONG)
    image = write_layout(tmp_path / "image", Image((layer,)))
    for _ in range(2):
        assert opened(image, Store(tmp_path / "cache")) == ([b"long"], [said(layer, stated)])
    assert not [check.problem for check in verify_image(str(image), Options(store=Store(tmp_path / "cache")))
                if check.problem]  # fmt: skip


@pytest.mark.parametrize("stated", ["gzip", "zstd"])
def test_an_empty_blob_is_an_empty_tar(tmp_path: Path, stated: Compression) -> None:
    empty = labelled(stated, "tar", b"")
    image = write_layout(tmp_path / "image", Image((Layer(TAR), empty)))
    for _ in range(2):
        assert opened(image, Store(tmp_path / "cache")) == ([b"a", b"b"], [said(empty, stated)])


def test_the_right_media_type_is_not_blamed_for_a_wrong_one(tmp_path: Path) -> None:
    """Both images have the same blob, so they share its LayerIndex."""
    store = Store(tmp_path / "cache")
    wrong = write_layout(tmp_path / "wrong", Image((labelled("tar", "gzip"),)))
    right = write_layout(tmp_path / "right", Image((Layer(TAR, "gzip"),)))
    assert opened(wrong, store)[1]
    assert opened(right, store) == ([b"a", b"b"], [])
    with open_image(right, Options(store=store, strict=True)):
        pass


def test_each_blob_is_warned_of_once(tmp_path: Path) -> None:
    layer = labelled("tar", "gzip")
    image = write_layout(tmp_path / "image", Image((layer, layer, Layer(TAR))))
    assert opened(image, Store(None))[1] == [said(layer, "tar")]


@pytest.mark.parametrize("data", [TAR, LONG], ids=["short", "reframed"])
def test_strict_refuses_it_cold_and_warm(tmp_path: Path, data: bytes) -> None:
    layer = labelled("gzip", "zstd", data)
    image = write_layout(tmp_path / "image", Image((layer,)))
    store = Store(tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(InvalidImageError) as caught:
            open_image(image, Options(store=store, strict=True, warn=pytest.fail))
        assert str(caught.value) == f"{said(layer, 'gzip')}: refused by --strict"
        opened(image, store)


@pytest.mark.parametrize("warm", [False, True])
def test_verify_proves_it_and_strictly_refuses_it(tmp_path: Path, warm: bool) -> None:
    image = write_layout(tmp_path / "image", Image((labelled("gzip", "tar"),)))
    store = Store(tmp_path / "cache")
    if warm:
        opened(image, store)
    assert not [check for check in verify_image(str(image), Options(store=store)) if check.problem]
    (wrong,) = [check for check in verify_image(str(image), Options(store=store, strict=True)) if check.problem]
    assert wrong.what == "layer"
    assert "its media type says gzip, but its bytes are an uncompressed tar" in (wrong.problem or "")


def test_a_damaged_mislabelled_blob_is_refused(tmp_path: Path) -> None:
    layer = labelled("gzip", "zstd")
    files = layout_files(Image((layer,)))
    files[blob_path(digest(layer.blob))] = layer.blob[:-1] + b"!"
    with pytest.raises(InvalidImageError, match=f"layer {digest(layer.blob)}"):
        open_image(write_directory(tmp_path / "image", files))


def test_docker_and_oci_media_types_may_be_mixed(tmp_path: Path) -> None:
    image = Image(
        (Layer(TAR, descriptor={"mediaType": f"{DOCKER_LAYER}.gzip"}), Layer(tar({"c": b""}), "zstd")),
        manifest={"mediaType": "application/vnd.docker.distribution.manifest.v2+json"},
        descriptor={"mediaType": "application/vnd.oci.image.manifest.v1+json"},
    )
    assert opened(write_layout(tmp_path / "image", image), Store(None)) == ([b"a", b"b", b"c"], [])


# From a registry


MISLABELLED = labelled("gzip", "zstd", tar({"a": b"same", "big": bytes(range(256)) * 12_000}))


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving(Image((MISLABELLED,))) as registry:
        yield registry


def test_a_lazy_layer_says_the_same_cold_and_warm(registry: Registry, tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    for _ in range(2):
        assert opened(f"docker://{registry.host}/app", store) == ([b"a", b"big"], [said(MISLABELLED, "gzip")])


def test_a_published_index_of_it_is_used(registry: Registry, tmp_path: Path) -> None:
    reference = f"docker://{registry.host}/app"
    with open_image(reference, Options(lazy=False)) as image:
        manifest, blobs = make_artifact(image.resolved, image.indexes)
        image.source.referrers().attach(image.resolved.descriptor, manifest, blobs)
    store = Store(tmp_path / "cache")
    registry.requests.clear()
    with open_image(reference, Options(store=store)) as image:
        assert [not layer.verification.is_verified for layer in image.layers] == [True]
    asked = [request.range for request in registry.sent if digest(MISLABELLED.blob) in request.path]
    assert asked == ["bytes=0-511"]
    assert opened(reference, store) == ([b"a", b"big"], [said(MISLABELLED, "gzip")])
