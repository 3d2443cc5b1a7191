"""Images that say of one blob what others do not: its size, or the digest of its tar stream."""

import os
import random
from pathlib import Path

import pytest

from ocifs.errors import InvalidImageError
from ocifs.image.opening import open_image
from ocifs.image.verification import verify_image
from ocifs.indexes.artifact import make_artifact
from ocifs.layer.index_format import KIND
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.layer.verification import fetch_all, verify_index
from ocifs.options import Options
from ocifs.store import Store
from tests.images import Image, Layer, digest, layout_files, tar, write_layout
from tests.registry import Registry

pytestmark = pytest.mark.usefixtures("alone")

BIG = random.Random(1).randbytes(200_000)
TAR = tar({"first": b"first", "big": BIG})
BASE = Layer(TAR)
SHA512 = Layer(TAR, diff_id=digest(TAR, "sha512"))


def add(registry: Registry, name: str, *layers: Layer) -> str:
    return registry.add(name, layout_files(Image(layers)))


def read(reference: str, store: Store, path: str = "/big") -> bytes:
    with open_image(reference, Options(store=store)) as image:
        return image.rootfs.open(path).read()


def forget_blobs(store: Store) -> None:
    for path in (store.directory or Path()).glob("entries/blob*"):
        path.unlink()


def kinds(store: Store) -> list[str]:
    return sorted(entry.kind for entry in store.entries())


def sized(size: int) -> Layer:
    return Layer(TAR, descriptor={"size": size})


FALSE_SIZES = [0, 10, len(BASE.blob) + 1, 1 << 40]


@pytest.mark.parametrize("size", FALSE_SIZES)
def test_a_false_size_of_a_known_layer_is_refused_and_cuts_nothing(registry: Registry, store: Store, size: int) -> None:
    honest, lying = add(registry, "honest", BASE), add(registry, "lying", sized(size))
    read(honest, store)
    forget_blobs(store)
    with open_image(honest, Options(store=store)) as image:
        blob = image.layers[0].blob
        assert isinstance(blob, LazyBlob)
        assert image.rootfs.open("/big").read() == BIG
        there, sent = os.pread(blob.fd, len(BASE.blob), 0), len(registry.sent)
        with pytest.raises(InvalidImageError, match=f"has {len(BASE.blob)} bytes, its descriptor says {size}: "):
            read(lying, store)
        assert os.pread(blob.fd, len(BASE.blob), 0) == there
        assert [each.path for each in registry.sent[sent:] if digest(BASE.blob) in each.path] == []


@pytest.mark.parametrize("size", FALSE_SIZES)
def test_a_false_size_of_an_unknown_layer_blocks_no_other_image(registry: Registry, store: Store, size: int) -> None:
    honest, lying = add(registry, "honest", BASE), add(registry, "lying", sized(size))
    with pytest.raises(InvalidImageError):
        read(lying, store)
    assert read(honest, store) == BIG


@pytest.mark.parametrize("size", FALSE_SIZES)
def test_a_false_size_of_a_blob_that_is_kept_is_refused(registry: Registry, store: Store, size: int) -> None:
    honest, lying = add(registry, "honest", BASE), add(registry, "lying", sized(size))
    read(honest, store)
    for path in (store.directory or Path()).glob("entries/layer*"):
        path.unlink()
    with pytest.raises(InvalidImageError, match=f"has {len(BASE.blob)} bytes, its descriptor says {size}"):
        read(lying, store)
    assert read(honest, store) == BIG


@pytest.mark.parametrize("layers", [(BASE, SHA512), (SHA512, BASE)], ids=["sha256 first", "sha512 first"])
def test_a_layer_that_two_images_name_by_two_algorithms(
    registry: Registry, store: Store, layers: tuple[Layer, ...]
) -> None:
    references = [add(registry, f"app{number}", layer) for number, layer in enumerate(layers)]
    for reference in (*references, *references):
        assert read(reference, store) == BIG
    assert [kinds(store).count(kind) for kind in ("layer2", "tree4")] == [1, 1]
    forget_blobs(store)
    sent = len(registry.sent)
    for reference in references:  # nothing has to be fetched to know it
        assert read(reference, store, "/first") == b"first"
    assert all(each.range for each in registry.sent[sent:] if digest(BASE.blob) in each.path)
    for reference in references:
        assert {check.problem for check in verify_image(reference, Options(store=store))} == {None}


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("lazy", [False, True])
def test_a_false_diff_id_blocks_no_other_image(registry: Registry, store: Store, algorithm: str, lazy: bool) -> None:
    lying = add(registry, "lying", Layer(TAR, diff_id=digest(b"other", algorithm)))
    honest = [add(registry, "sha256", BASE), add(registry, "sha512", SHA512)]
    for again in range(2):
        with pytest.raises(InvalidImageError, match="the image config says"):
            read(lying, store)
        assert [read(reference, store) for reference in honest] == [BIG] * 2
        if lazy and not again:
            forget_blobs(store)


def publish(reference: str) -> None:
    with open_image(reference, Options(lazy=False)) as image:
        manifest, blobs = make_artifact(image.resolved, image.indexes)
        image.source.referrers().attach(image.resolved.descriptor, manifest, blobs)


def test_a_published_index_serves_the_algorithm_of_its_image(registry: Registry, store: Store) -> None:
    reference = add(registry, "app", SHA512)
    publish(reference)
    with open_image(reference, Options(store=store)) as image:
        (layer,) = image.layers
        assert not layer.verification.is_verified
        fetch_all(layer, lambda size: None)
        assert verify_index(layer, lambda size: None)
        assert image.rootfs.open("/big").read() == BIG


@pytest.mark.parametrize("forged", [b"", b"nonsense"])
def test_a_stored_index_that_is_none_is_made_again(registry: Registry, store: Store, forged: bytes) -> None:
    reference = add(registry, "app", BASE)
    read(reference, store)
    for gone in (False, True):
        store.get(KIND, digest(BASE.blob), lambda out: out.write(forged), anew=True).close()
        if gone:
            forget_blobs(store)
        assert read(reference, store) == BIG
        with open_image(reference, Options(store=store)) as image:
            assert image.layers[0].verification.is_verified


def test_an_image_that_names_one_blob_by_two_algorithms(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "image", Image((BASE, SHA512, BASE)))
    options = Options(store=Store(tmp_path / "cache"))
    for _ in range(2):
        with open_image(layout, options) as image:
            assert image.rootfs.open("/big").read() == BIG
    assert {check.problem for check in verify_image(str(layout), options)} == {None}


def test_a_blob_that_is_named_by_two_algorithms_makes_one_tree(tmp_path: Path) -> None:
    options = Options(store=Store(tmp_path / "cache"))
    for algorithm in ("sha256", "sha512"):
        layout = write_layout(tmp_path / algorithm, Image((BASE,), algorithm=algorithm))
        with open_image(layout, options) as image:
            assert image.rootfs.open("/big").read() == BIG
        assert {check.problem for check in verify_image(str(layout), options)} == {None}
    assert kinds(options.store) == ["layer2", "layer2", "tree4"]
