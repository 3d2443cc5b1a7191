import hashlib

import pytest

from ocifs.errors import StoreError
from ocifs.imagestore.records import (
    ImageOrigin,
    ImageRecord,
    LayerRecord,
    Records,
    StoreRecord,
    data_file,
    decode,
    encode,
    layer_id,
    link_name,
    unverified_layer_id,
)

A, B, C = "a" * 64, "b" * 64, "c" * 64


def layer(identity: str, parent: str = "") -> LayerRecord:
    return LayerRecord(id=identity, parent=parent, created="2026-01-01T00:00:00Z")


def image(identity: str, top: str, *names: str) -> ImageRecord:
    return ImageRecord(id=identity, digest=f"sha256:{identity}", names=names, layer=top)


def test_the_id_of_a_layer_is_that_of_containers_image() -> None:
    """As `singleLayerIDComponent` and `commitLayer` in its storage_dest.go make it."""
    assert layer_id("", A) == A
    assert layer_id(A, B) == hashlib.sha256(f"{A}+{B}".encode()).hexdigest()


def test_the_id_of_an_unverified_layer_is_that_of_no_other() -> None:
    assert unverified_layer_id("", b"1") not in {unverified_layer_id("", b"2"), unverified_layer_id(A, b"1"), A}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("manifest", "manifest"),
        ("a.0", "a.0"),
        ("manifest-sha256:ab", "=bWFuaWZlc3Qtc2hhMjU2OmFi"),
        ("sha256:ab", "=c2hhMjU2OmFi"),
        ("A", "=QQ=="),
    ],
)
def test_the_file_of_an_items_data(name: str, file: str) -> None:
    assert data_file(name) == file


def test_the_short_name_of_a_layer() -> None:
    assert len(link_name(A)) == 26
    assert link_name(A).isalnum()
    assert link_name(A) == link_name(A).upper() != link_name(B)


def test_an_image_is_found_by_name_or_id() -> None:
    records = Records((image("abc1" + A[4:], A, "localhost/x:1"), image("abc2" + A[4:], A)), (layer(A),))
    found = [records.image(name) for name in ("localhost/x:1", "abc2", "abc2" + A[4:], "abc", "ab", "x")]
    assert [each and each.id[:4] for each in found] == ["abc1", "abc2", "abc2", None, None, None]


def test_a_chain_begins_with_the_base_and_is_whole() -> None:
    records = Records(layers=(layer(C, B), layer(A), layer(B, A)))
    assert [each.id for each in records.chain(C)] == [A, B, C]
    assert Records(layers=(layer(C, B), layer(A))).chain(C) == ()
    assert Records(layers=(layer(A, B), layer(B, A))).chain(A) == ()
    assert records.chain("") == ()


def test_what_no_image_uses_is_left_out() -> None:
    origin = ImageOrigin(id=A, reference="x", digest="y")
    records = Records((image(A, B),), (layer(A), layer(B, A), layer(C)), StoreRecord(images=(origin,)))
    assert [each.id for each in records.pruned().layers] == [A, B]
    assert Records((), records.layers, records.own).pruned() == Records()


def test_records_are_those_of_containers_storage() -> None:
    record = LayerRecord(
        id=B,
        parent=A,
        created="2026-01-01T00:00:00Z",
        compressed_digest="sha256:1",
        diff_digest="sha256:2",
        diff_size=5,
    )
    assert encode([record]) == (
        b'[{"id":"%b","parent":"%b","created":"2026-01-01T00:00:00Z","compressed-diff-digest":"sha256:1",'
        b'"diff-digest":"sha256:2","diff-size":5}]' % (B.encode(), A.encode())
    )


@pytest.mark.parametrize("data", [b"{", b"{}", b'[{"id":1}]', b"[" * 100_000, b"\xff"])
def test_a_damaged_record_names_the_remedy(data: bytes) -> None:
    with pytest.raises(StoreError, match=r"layers.json is damaged.*: run `ocifs store check --repair`"):
        decode(data, tuple[LayerRecord, ...], "layers.json")


def test_an_empty_file_has_no_records() -> None:
    assert decode(b"", tuple[LayerRecord, ...], "layers.json") == ()
