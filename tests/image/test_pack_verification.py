"""`ocifs verify` compares every block of the hot packs with the layers, in the cache and published."""

import random
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pytest

from ocifs.blobs.download import BLOB
from ocifs.errors import InvalidImageError
from ocifs.image.hot_pack import PACK, UNVERIFIED_PACK, pack_name
from ocifs.image.opening import open_image
from ocifs.image.verification import Check, verify_image
from ocifs.indexes.artifact import PACK_TYPE, make_artifact
from ocifs.layer.index import ChunkedIndex
from ocifs.layer.layer import Layer as OpenedLayer
from ocifs.options import Options, ignore
from ocifs.reader import BytesReader
from ocifs.spec.digest import Digest
from ocifs.store import Store
from tests import tars
from tests.cli.command import Ocifs
from tests.hotpack.packs import forged, pack_of, save
from tests.images import Image, Layer, layout_files, write_layout
from tests.registry import Registry, status
from tests.tocs import estargz

KIB = 1 << 10
CONTENT = random.Random(1).randbytes(300 * KIB)
LAYERS = (
    Layer(tars.tar([tars.file(b"data", CONTENT)]), "gzip"),
    Layer(tars.tar([tars.file(b"data", CONTENT[1:])]), "zstd"),
)
FOUND = [(1, 4 * KIB, 200 * KIB), (0, 0, 100 * KIB)]
FALSE = {
    "all bytes": lambda data: bytes(len(data)),
    "one bit": lambda data: bytes([*data[:-1], data[-1] ^ 1]),
}


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return write_layout(tmp_path / "image", Image(LAYERS))


def put(image: object, store: Store, make: Callable[[list[OpenedLayer]], bytes], layers: int = 2) -> Path:
    """Save a pack of the first layers of an image."""
    with open_image(str(image), Options(store=store)) as opened:
        chosen = opened.layers[:layers]
        return save(store, chosen, make(chosen))


def honest(layers: list[OpenedLayer]) -> bytes:
    return pack_of(layers, [each for each in FOUND if each[0] < len(layers)])


def packs(image: object, store: Store, warnings: list[str] | None = None) -> list[Check]:
    options = Options(store=store, warn=ignore if warnings is None else warnings.append)
    checks = list(verify_image(str(image), options))
    assert not [check for check in checks if check.problem and "pack" not in check.what]
    return [check for check in checks if "pack" in check.what]


def test_packs_of_the_image_and_of_its_base(layout: Path, store: Store) -> None:
    assert packs(layout, store) == []
    put(layout, store, honest)
    put(layout, store, honest, layers=1)
    base, whole = packs(layout, store)
    assert (base.what, base.problem, base.verified) == (
        "pack", None, f"its 1 blocks with {100 * KIB} bytes in total equal those of the layers",
    )  # fmt: skip
    assert whole.verified == f"its 3 blocks with {296 * KIB} bytes in total equal those of the layers"


@pytest.mark.parametrize("alter", FALSE.values(), ids=FALSE)
def test_a_false_block(layout: Path, store: Store, alter: Callable[[bytes], bytes]) -> None:
    put(layout, store, lambda layers: forged(layers, [(0, 0, 4 * KIB), (1, 4 * KIB, 8 * KIB)], alter))
    (check,) = packs(layout, store)
    assert str(check.problem).startswith("hot pack: bytes 0..4096 differ from those of layer sha256:")


def test_packs_of_other_layers(layout: Path, store: Store) -> None:
    """Of fewer, of others, and of the same in another order, under the name of these."""
    for found in ([0], [0, 0], [1, 0], [0, 1, 1]):
        with open_image(layout, Options(store=store)) as opened:
            others = [opened.layers[number] for number in found]
            save(store, opened.layers, pack_of(others, [(0, 0, 4 * KIB)]))
        (check,) = packs(layout, store)
        if found == [0]:  # as of a base image
            assert check.problem is None
        else:
            assert check.problem == "hot pack: it belongs to other layers"


def test_a_pack_without_blocks(layout: Path, store: Store) -> None:
    put(layout, store, lambda layers: forged(layers, [], bytes))
    (check,) = packs(layout, store)
    assert check.verified == "its 0 blocks with 0 bytes in total equal those of the layers"


def test_the_command(ocifs: Ocifs, layout: Path) -> None:
    store = Store(ocifs.cache)
    put(layout, store, honest)
    assert "ok    hot pack         sha256:" in ocifs.output("verify", layout)
    path = put(layout, store, lambda layers: forged(layers, FOUND[1:], FALSE["one bit"]))
    before = path.read_bytes()
    result = ocifs.run("verify", layout)
    assert result.code == InvalidImageError.exit_code
    assert "FAIL  hot pack         sha256:" in result.text
    assert result.text.splitlines()[-1].count("1 of 8 checks failed")
    assert path.read_bytes() == before


# In a registry


def publish(registry: Registry, *made: bytes | None) -> str:
    """Publish the index of an image with each of these packs."""
    reference = registry.add("app", layout_files(Image(LAYERS)))
    with open_image(reference, Options(lazy=False)) as opened:
        for data in made:
            manifest, blobs = make_artifact(opened.resolved, opened.indexes, data)
            opened.source.referrers().attach(opened.resolved.descriptor, manifest, blobs)
    return reference


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Iterable[list[OpenedLayer]]:
    with open_image(write_layout(tmp_path_factory.mktemp("image"), Image(LAYERS))) as opened:
        yield opened.layers


@pytest.mark.parametrize("alter", [bytes, FALSE["one bit"]], ids=["honest", "false"])
def test_a_pack_of_chunks(registry: Registry, store: Store, alter: Callable[[bytes], bytes]) -> None:
    """Made of layers that are read by their TOC: it is compared with these chunks, not with the tar."""
    layer = estargz(LAYERS[0].tar)
    reference = registry.add("app", layout_files(Image((layer, LAYERS[1]))))
    with open_image(reference, Options(store=store)) as opened:
        assert isinstance(opened.layers[0].index, ChunkedIndex)
        data = forged(opened.layers, [(0, 8 * KIB, 100 * KIB), (1, 0, 4 * KIB)], alter)
        save(store, opened.layers, data)
        manifest, blobs = make_artifact(opened.resolved, opened.indexes, data)
        opened.source.referrers().attach(opened.resolved.descriptor, manifest, blobs)
    checks = packs(reference, store)
    assert [check.what for check in checks] == ["pack", "published-pack"]
    expected = "None" if alter is bytes else "differ from those of layer"
    assert [expected in str(check.problem) for check in checks] == [True, True], checks


def problems(checks: list[Check]) -> list[str | None]:
    assert {check.what for check in checks} <= {"published-pack"}
    return [check.problem for check in checks]


def test_an_index_without_a_pack(registry: Registry, store: Store) -> None:
    assert packs(publish(registry, None), store) == []


def test_published_packs(registry: Registry, store: Store, layers: list[OpenedLayer]) -> None:
    false = forged(layers, FOUND[1:], FALSE["one bit"])
    others = pack_of(layers[::-1], FOUND)
    good = honest(layers)
    checks = packs(publish(registry, good, false, others, b"ocifshp1" + bytes(100)), store)
    by_digest = {check.digest: str(check.problem) for check in checks}
    assert by_digest[Digest.of(good)] == "None"
    assert "differ from those of layer" in by_digest[Digest.of(false)]
    assert by_digest[Digest.of(others)] == "hot pack: it belongs to other layers"
    assert "head" in by_digest[Digest.of(b"ocifshp1" + bytes(100))]


def test_a_published_pack_that_is_missing(registry: Registry, store: Store, layers: list[OpenedLayer]) -> None:
    reference = publish(registry, data := honest(layers))
    registry.fault(status(404), Digest.of(data))
    (problem,) = problems(packs(reference, store))
    assert "has no blob" in str(problem)


def test_a_registry_that_lists_nothing(registry: Registry, store: Store, layers: list[OpenedLayer]) -> None:
    reference = publish(registry, honest(layers))
    registry.fault(status(403), "referrers")
    registry.fault(status(403), "/manifests/sha256-")
    warnings: list[str] = []
    assert packs(reference, store, warnings) == []
    assert [each for each in warnings if "its published hot packs are not verified: " in each]


def test_a_pack_without_the_digest_of_its_head(registry: Registry, store: Store, layers: list[OpenedLayer]) -> None:
    reference = registry.add("app", layout_files(Image(LAYERS)))
    with open_image(reference, Options(lazy=False)) as opened:
        manifest, blobs = make_artifact(opened.resolved, opened.indexes, honest(layers))
        document = msgspec.json.decode(manifest.blob.pread(1 << 20, 0))
        for each in document["layers"]:
            if each["mediaType"] == PACK_TYPE:
                each["annotations"] = {"vnd.ocifs.hot-pack.head": "none"}
        data = msgspec.json.encode(document)
        descriptor = msgspec.structs.replace(manifest.descriptor, digest=Digest.of(data), size=len(data))
        changed = manifest._replace(descriptor=descriptor, blob=BytesReader(data))
        opened.source.referrers().attach(opened.resolved.descriptor, changed, blobs)
    (problem,) = problems(packs(reference, store))
    assert "no valid annotation" in str(problem)


def test_the_pack_of_unverified_layers_in_the_cache(registry: Registry, store: Store) -> None:
    reference = publish(registry, None)
    with open_image(reference, Options(store=store)) as opened:
        assert pack_name(opened.layers).kind == UNVERIFIED_PACK
        save(store, opened.layers, forged(opened.layers, FOUND[1:], FALSE["one bit"]))
    (check,) = packs(reference, store)
    assert check.what == "pack"
    assert "differ from those of layer" in str(check.problem)
    assert {entry.kind for entry in store.entries()} >= {"ppack1", f"{BLOB.name}{BLOB.version}"}
    assert PACK.name == "pack"
