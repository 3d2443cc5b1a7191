"""An image is proven, or what is wrong is named; whatever byte is changed, it shows."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ocifs.errors import NotFoundError, OcifsError
from ocifs.image.kinds import TREE
from ocifs.image.opening import open_image
from ocifs.image.verification import Check, verify_image
from ocifs.layer.index_format import KIND, encode_tail
from ocifs.options import Options
from ocifs.report.text import local_time
from ocifs.report.verification import check_line, summary_line, to_json
from ocifs.spec.digest import Digest
from ocifs.store import Kind, Store, Writer
from tests import tars
from tests.images import Image, Layer, blob_path, digest, layout_files, tar, write_directory, write_layout

BASE = Layer(tar({"a": b"base", "d": None, "d/b": b"kept"}))
MIDDLE = Layer(tars.tar([tars.file(b".wh.a"), tars.file(b"c", b"new")]), "zstd")
UPPER = Layer(tars.tar([tars.file(b"d/e", b"plain")]), "tar")


def _verify(image: Path, cache: Path | None = None) -> list[Check]:
    return list(verify_image(str(image), Options(store=Store(cache))))


def _problems(checks: list[Check]) -> list[str]:
    return [f"{check.what} {check.layer}: {check.problem}" for check in checks if check.problem]


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return write_layout(tmp_path / "image", Image((BASE, MIDDLE, UPPER)))


@pytest.fixture
def cache(tmp_path: Path, layout: Path) -> Path:
    with open_image(layout, Options(store=Store(tmp_path / "cache"))) as image:
        image.changes(1)
        image.as_of(0)
    return tmp_path / "cache"


def test_what_is_proven(layout: Path, cache: Path) -> None:
    told = [(check.what, check.layer, check.problem) for check in _verify(layout, cache)]
    assert told == [
        ("manifest", None, None),
        ("config", None, None),
        *((what, layer, None) for layer in range(3) for what in ("blob", "layer")),
        ("tree", 0, None),
        ("changes", 1, None),
        ("tree", 2, None),
    ]
    verified = {(check.what, check.layer): check.verified for check in _verify(layout, cache)}
    assert verified["layer", 0] == (
        "decodes to 10240 bytes of that digest, in 1 span of the LayerIndex; it has the same 3 entries"
    )
    assert verified["tree", 2].endswith("bytes equal those of a new merge")


def test_without_a_cache_all_is_made_anew(layout: Path) -> None:
    checks = _verify(layout)
    assert _problems(checks) == []
    assert [check.what for check in checks].count("tree") == 1
    assert all("cache" in check.verified for check in checks if check.what in {"layer", "tree"})


def test_nothing_is_changed(layout: Path, cache: Path) -> None:
    def state() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((cache / "entries").iterdir())}

    before = state()
    _verify(layout, cache)
    (cache / "entries" / next(iter(before))).write_bytes(b"damaged")
    damaged = state()
    assert _problems(_verify(layout, cache)) != []
    assert state() == damaged


def _flips(path: Path) -> Iterator[int]:
    """Change one byte after the other, some hundred of them."""
    data = path.read_bytes()
    places = sorted({*range(0, len(data), max(1, len(data) // 150)), len(data) - 1})
    with path.open("r+b", buffering=0) as file:
        for place in places:
            os.pwrite(file.fileno(), bytes([data[place] ^ 1 << place % 8]), place)
            yield place
            os.pwrite(file.fileno(), data[place : place + 1], place)


@pytest.mark.parametrize("compression", ["gzip", "zstd", "tar"])
def test_bytes_of_every_file_count(tmp_path: Path, compression: str) -> None:
    small = Layer(tars.file(b"f", b"x") + bytes(1024), compression)  # type: ignore[arg-type]
    image = write_layout(tmp_path / "image", Image((small,)))
    with open_image(image, Options(store=Store(tmp_path / "cache"))) as opened:
        opened.changes(0)
    assert _problems(_verify(image, tmp_path / "cache")) == []
    files = [*(image / "blobs/sha256").iterdir(), *(tmp_path / "cache/entries").iterdir()]
    assert len(files) == 6
    for path in files:
        for place in _flips(path):
            assert _problems(_verify(image, tmp_path / "cache")), (path, place)
    assert _problems(_verify(image, tmp_path / "cache")) == []


def test_a_damaged_blob_is_named_and_others_still_proven(layout: Path, cache: Path) -> None:
    path = layout / blob_path(digest(MIDDLE.blob))
    path.write_bytes(bytes([*MIDDLE.blob[:-9], MIDDLE.blob[-9] ^ 1, *MIDDLE.blob[-8:]]))
    checks = _verify(layout, cache)
    blob, layer = _problems(checks)
    assert blob.startswith("blob 1: its bytes have the digest sha256:")
    assert layer.startswith("layer 1: ")
    assert [check.what for check in checks if check.problem is None] == [
        "manifest", "config", "blob", "layer", "blob", "layer"
    ]  # fmt: skip


def test_a_blob_that_is_gone_or_cut(layout: Path, cache: Path) -> None:
    (layout / blob_path(digest(BASE.blob))).unlink()
    os.truncate(layout / blob_path(digest(UPPER.blob)), 100)
    gone, cut = _problems(_verify(layout, cache))
    assert gone.startswith("blob 0: cannot read blob sha256:")
    assert "has 100 bytes" in cut


def test_a_wrong_diff_id(tmp_path: Path) -> None:
    wrong = Image((Layer(BASE.tar, diff_id=digest(b"other")), BASE))
    layout = write_layout(tmp_path / "image", wrong)
    assert [each.partition(":")[0] for each in _problems(_verify(layout))] == ["layer 0"]


def test_a_manifest_that_is_damaged(tmp_path: Path) -> None:
    files = layout_files(Image((BASE,)))
    with_manifest = next(path for path, data in files.items() if b"mediaType" in data and path.startswith("blobs/"))
    files[with_manifest] = files[with_manifest].replace(b"schemaVersion", b"schemaversion")
    write_directory(tmp_path / "image", files)
    (problem,) = _problems(_verify(tmp_path / "image"))
    assert "is damaged" in problem
    with pytest.raises(NotFoundError):
        _verify(tmp_path / "missing")


def _forge(cache: Path, kind: Kind, subject: str, data: bytes) -> None:
    """Put something into the cache that is whole, but wrong."""
    store = Store(cache)
    for path in (cache / "entries").glob(f"{kind.name}*-{subject.replace(':', '-')}"):
        path.unlink()
    store.get(kind, subject, lambda out: Writer.write(out, data)).close()


def test_what_is_whole_in_the_cache_but_wrong(layout: Path, cache: Path, tmp_path: Path) -> None:
    store = Store(cache)
    entries = {entry.kind: entry.subject for entry in store.entries() if entry.kind.startswith("tree")}
    subject = entries[f"{TREE.name}{TREE.version}"]
    stored = store.load(TREE, subject)
    assert stored is not None
    data = bytearray(stored.pread(stored.size, 0))
    stored.close()
    data[-1] ^= 1
    _forge(cache, TREE, subject, bytes(data))
    (problem,) = _problems(_verify(layout, cache))
    assert problem.startswith("tree ")
    _forge(cache, KIND, digest(BASE.blob), b"no index")
    (problem,) = [each for each in _problems(_verify(layout, cache)) if each.startswith("layer 0")]
    assert "layer index" in problem
    other = write_layout(tmp_path / "other", Image((UPPER,)))
    with open_image(other, Options(store=store)) as image:
        file = image.indexes[0].file
        _forge(cache, KIND, digest(BASE.blob), file.pread(file.size, 0))
    assert any("is of a blob" in each for each in _problems(_verify(layout, cache)))


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_an_image_and_a_cache_that_lie_about_a_diff_id(cache: Path, tmp_path: Path, algorithm: str) -> None:
    lie = digest(b"other", algorithm)
    lying = write_layout(tmp_path / "lying", Image((Layer(BASE.tar, diff_id=lie),)))
    (problem,) = _problems(_verify(lying, cache))
    assert problem == f"layer 0: it decodes to bytes with the digest {digest(BASE.tar, algorithm)}"
    layout = write_layout(tmp_path / "honest", Image((BASE,)))
    with open_image(layout, Options(store=Store(cache))) as image:
        index = image.indexes[0]
        told = {"diff_id": lie} if algorithm == "sha256" else {"diff_ids": (lie,)}
        data = encode_tail(index.toc(), msgspec.structs.replace(index.summary, **told), 0)
    _forge(cache, KIND, digest(BASE.blob), data)
    (problem,) = _problems(_verify(layout, cache))
    assert problem == f"layer 0: the LayerIndex in the cache has the diff ID {lie}"


def test_a_reframed_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One long frame: spans are read from the LayerIndex, and the blob is decoded from front to end as well."""
    data = os.urandom(9 << 20)
    layout = write_layout(tmp_path / "image", Image((Layer(tar({"big": data}), "zstd"),)))
    with open_image(layout, Options(store=Store(tmp_path / "cache"))) as image:
        assert image.indexes[0].summary.reframed
    assert _problems(_verify(layout, tmp_path / "cache")) == []
    shutil.rmtree(tmp_path / "cache/entries")
    assert _problems(_verify(layout, tmp_path / "cache")) == []


def test_a_layer_that_is_listed_twice_is_read_once(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "image", Image((BASE, UPPER, BASE)))
    checks = _verify(layout)
    assert [(check.what, check.layer) for check in checks if check.what == "blob"] == [("blob", 0), ("blob", 1)]
    assert _problems(checks) == []


def test_progress_and_interrupts(layout: Path, cache: Path) -> None:
    told: dict[Digest, tuple[int, int]] = {}
    list(verify_image(str(layout), Options(store=Store(cache), progress=lambda layer, *n: told.update({layer: n}))))
    assert {str(layer): done for layer, done in told.items()} == {
        digest(layer.blob): (2 * len(layer.blob), 2 * len(layer.blob)) for layer in (BASE, MIDDLE, UPPER)
    }

    def refuse(layer: Digest, done: int, total: int) -> None:
        raise OcifsError("enough")

    verifying = verify_image(str(layout), Options(store=Store(cache), progress=refuse))
    assert [next(verifying).what, next(verifying).what] == ["manifest", "config"]
    with pytest.raises(OcifsError, match="enough"):
        next(verifying)


def test_lines_and_json() -> None:
    checks = [
        Check(what="manifest", digest="sha256:0123456789abcdef", verified="its 3 bytes have that digest", at=10.0),
        Check(what="tree", digest="sha256:0123456789abcdef", layer=2, problem="damaged", at=11.0),
        Check(what="layer", digest="sha256:0123456789abcdef", layer=0, verified="decodes", at=12.0, indexed=9.0),
    ]
    assert [check_line(check) for check in checks] == [
        "ok    manifest         sha256:0123456789ab  its 3 bytes have that digest",
        "FAIL  tree image 2     sha256:0123456789ab  damaged",
        f"ok    layer 0          sha256:0123456789ab  decodes; it was indexed {local_time(9.0)}",
    ]
    assert summary_line(checks[:1], "x") == f"x: all 1 checks passed, {local_time(10.0)}"
    assert summary_line(checks[:2], "x").startswith(f"x: 1 of 2 checks failed, {local_time(11.0)}; ")
    assert to_json(checks[1]) == (
        '{"what":"tree","digest":"sha256:0123456789abcdef","layer":2,"ok":false,"at":11.0,"problem":"damaged"}'
    )
    assert '"ok":true,"at":12.0,"indexed":9.0,"verified":"decodes"' in to_json(checks[2])
