"""Reading many files: their bytes, holes, and digests that do not care where zeros are stored."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ocifs.image.contents import _ContentDigest, digests, in_data_order, read_files
from ocifs.image.opening import open_image
from ocifs.image.rootfs import Rootfs
from tests import images
from tests.tars import directory, file, hardlink, pax, tar

_SPARSE = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": b"sparse"}
_BIG = bytes(range(251)) * 20_000


def _sparse(name: bytes, size: int, pieces: dict[int, bytes]) -> bytes:
    map_ = b"%d\n" % len(pieces) + b"".join(b"%d\n%d\n" % (offset, len(data)) for offset, data in pieces.items())
    stored = map_ + bytes(-len(map_) % 512) + b"".join(pieces.values())
    return pax({**_SPARSE, b"GNU.sparse.name": name, b"GNU.sparse.realsize": b"%d" % size}) + file(b"x", stored)


def _open(tmp_path: Path) -> images.Image:
    base = [
        file(b"z", b"first in the layer"),
        file(b"a", b"second"),
        file(b"empty"),
        _sparse(b"sparse", 1 << 40, {1 << 20: b"x" * 4096}),
        _sparse(b"holes", 300_000, {0: bytes(512), 200_192: b"y" * 512}),
        file(b"zeros", bytes(200_192) + b"y" * 512 + bytes(300_000 - 200_704)),
        directory(b"d"),
        file(b"d/big", _BIG),
        hardlink(b"d/link", b"a"),
    ]
    return images.Image((images.Layer(tar(base)), images.Layer(tar([file(b"b", b"above"), file(b"c", _BIG)]), "zstd")))


def _nids(rootfs: Rootfs, *paths: str) -> list[int]:
    return [rootfs.lookup(path) for path in paths]


def _joined(rootfs: Rootfs, nids: list[int]) -> dict[int, bytes]:
    return {
        nid: b"".join(bytes(part) for part in parts)  # a hole is a number: so many zeros
        for nid, parts in read_files(rootfs, nids)
    }


def test_bytes_come_in_the_order_of_the_layers(tmp_path: Path) -> None:
    with open_image(images.write_layout(tmp_path / "layout", _open(tmp_path))) as image:
        rootfs = image.rootfs
        nids = _nids(rootfs, "b", "a", "z", "c", "empty", "d/big", "holes")
        expected = _nids(rootfs, "empty", "z", "a", "holes", "d/big", "b", "c")
        assert in_data_order(rootfs, nids) == expected
        found = _joined(rootfs, nids)
        assert list(found) == expected
        assert found == {nid: rootfs.read(nid, 1 << 30, 0) for nid in nids}
        assert found[rootfs.lookup("d/big")] == _BIG


def test_what_is_left_of_a_file_is_passed_over(tmp_path: Path) -> None:
    with open_image(images.write_layout(tmp_path / "layout", _open(tmp_path))) as image:
        nids = _nids(image.rootfs, "d/big", "c", "b")
        seen = {nid: bytes(next(parts))[:3] for nid, parts in read_files(image.rootfs, nids)}
        assert [seen[nid] for nid in nids] == [b"\0\1\2", b"\0\1\2", b"abo"]


def test_a_digest_is_of_size_and_bytes_wherever_zeros_are_stored(tmp_path: Path) -> None:
    with open_image(images.write_layout(tmp_path / "layout", _open(tmp_path))) as image:
        rootfs = image.rootfs
        names = ["z", "a", "d/link", "empty", "sparse", "holes", "zeros", "d/big", "c", "b"]
        read: list[int] = []
        found = digests(rootfs, _nids(rootfs, *names), read.append)
        kinds: dict[bytes, set[str]] = {}
        for name, nid in zip(names, _nids(rootfs, *names), strict=True):
            kinds.setdefault(found[nid], set()).add(name)
        assert sorted(map(sorted, kinds.values())) == [
            ["a", "d/link"], ["b"], ["c", "d/big"], ["empty"], ["holes", "zeros"], ["sparse"], ["z"]
        ]  # fmt: skip
        assert sum(read) < 3 * len(_BIG)


def _digest(parts: list[bytes | int]) -> bytes:
    digest = _ContentDigest()
    for part in parts:
        if isinstance(part, int):
            digest.hole(part)
        else:
            digest.data(part)
    return digest.finish()


_PART = st.one_of(
    st.integers(0, 200_000), st.binary(max_size=5), st.sampled_from([65535, 65536, 70_000]).map(lambda n: b"\1" * n)
)


@given(st.lists(_PART, max_size=6), st.lists(_PART, max_size=6))
def test_digests_are_equal_where_bytes_are(first: list[bytes | int], second: list[bytes | int]) -> None:
    joined = [b"".join(map(bytes, parts)) for parts in (first, second)]
    assert _digest(first) == _digest([joined[0]])
    assert (_digest(first) == _digest(second)) == (joined[0] == joined[1])
