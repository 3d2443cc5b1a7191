"""Every byte of a hot pack changed, every cut, and the remains of a power loss: mounts and `verify` refuse the pack.

Each layer of the tiny image is in the pack as a whole, so each byte of a file is read from it. The negative control
shows that: a forged pack that passes as verified yields wrong bytes, and the judge notices them. A few changes leave a
pack as good as before: unused bits of a zstd frame.
"""

import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ocifs.hotpack.format import read_table
from ocifs.hotpack.pack import HotPack
from ocifs.hotpack.recording import Range
from ocifs.image.hot_pack import streams_of
from ocifs.image.opening import Image, open_image
from ocifs.image.pack_verification import PackCheck, verify_packs
from ocifs.layer.layer import Layer
from ocifs.options import Options
from ocifs.store import Store
from tests.depth import FULL, depth
from tests.hostile.test_corruption import tmp_path
from tests.hostile.tiny import Outcome, Seen, bits, cuts, flips, look, outcomes, see, tiny_files
from tests.hotpack.packs import forged, save
from tests.images import write_directory

__all__ = ["tmp_path"]

_BLOCK = 4096
_SECTOR = 48
"""Bytes that a disk writes at once; fewer than really, as the pack is small."""
_DAMAGE: dict[str, Callable[[bytes], Iterator[bytes]]] = {"flips": flips, "cuts": cuts}
if FULL:
    _DAMAGE["bits"] = bits


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_directory(tmp_path / "image", tiny_files())


@pytest.fixture
def expected(image: Path, store: Store) -> Seen:
    return see(image, store)


def everything(layers: list[Layer]) -> list[Range]:
    """Return the whole of each layer, in blocks."""
    return [
        (layer.number, begin, min(begin + _BLOCK, layer.size))
        for layer in layers
        for begin in range(0, layer.size, _BLOCK)
    ]


def save_pack(image: Path, store: Store, alter: Callable[[bytes], bytes] = bytes) -> Path:
    """Save a pack of the whole image, with two blocks in each frame; return its path."""
    with open_image(image, Options(store=store)) as opened:
        return save(store, opened.layers, forged(opened.layers, everything(opened.layers), alter, per_frame=2))


@contextmanager
def with_pack(image: Path, store: Store) -> Iterator[tuple[Image, HotPack | None]]:
    """Open an image as a mount does, with its hot pack."""
    with open_image(image, Options(store=store)) as opened:
        pack = None
        if (found := opened.hot_pack(sys.maxsize)) is not None:
            file = found.file
            pack = HotPack(
                lambda: (file, read_table(file, streams_of(opened.layers), 1 << 20, found.head)),
                verified=found.verified,
            )
        opened.rootfs.served.pack = pack
        yield opened, pack


def judge(image: Path, store: Store, expected: Seen) -> Outcome:
    """Return `wrong` for a wrong byte or a missing one, `refused` if the pack is not used, or not to its end."""
    with with_pack(image, store) as (opened, pack):
        if look(opened.rootfs) != expected:
            return "wrong"
        if pack is None or (table := pack.table()) is None:
            return "refused"
        frames = [pack.frame(number) for number in range(len(table.frames))]
        return "refused" if pack.fault is not None or None in frames else "same"


def assert_refused(counted: Counter[Outcome], total: int) -> None:
    assert counted.total() == total
    assert not counted["wrong"]
    assert counted["refused"] >= 0.98 * total


def verified(image: Path, store: Store) -> list[PackCheck]:
    with open_image(image, Options(store=store)) as opened:
        return list(verify_packs(opened.source, opened.resolved, opened.layers, opened.options))


@pytest.mark.parametrize("damage", _DAMAGE)
def test_a_damaged_pack_is_not_used(image: Path, expected: Seen, store: Store, damage: str) -> None:
    path = save_pack(image, store)
    whole = path.read_bytes()
    assert judge(image, store, expected) == "same"
    damaged = list(_DAMAGE[damage](whole))[:: depth(5, 1)]
    assert_refused(outcomes(path, iter(damaged), lambda: judge(image, store, expected)), len(damaged))


@pytest.mark.parametrize("damage", _DAMAGE)
def test_a_damaged_pack_fails_its_verification(image: Path, expected: Seen, store: Store, damage: str) -> None:
    """It fails if and only if a mount does not use it."""
    path = save_pack(image, store)
    whole = path.read_bytes()

    def found() -> Outcome:
        (check,) = verified(image, store)
        outcome: Outcome = "refused" if isinstance(check.result, Exception) else "same"
        return outcome if outcome == judge(image, store, expected) else "wrong"

    assert found() == "same"
    damaged = list(_DAMAGE[damage](whole))[:: depth(11, 1)]
    assert_refused(outcomes(path, iter(damaged), found), len(damaged))


def test_a_forged_pack_yields_wrong_bytes_where_it_passes_as_verified(
    image: Path, expected: Seen, store: Store
) -> None:
    """The negative control: the tests above fail if the digests of blocks are wrong, and `verify` finds that."""
    save_pack(image, store, lambda data: bytes(byte ^ 1 for byte in data))
    assert judge(image, store, expected) == "wrong"
    (check,) = verified(image, store)
    assert "differ from those of layer" in str(check.result)


def test_sectors_that_power_loss_left_unwritten(image: Path, expected: Seen, store: Store) -> None:
    """Any of them may be lost, also where the file system has written the new name before the bytes."""
    path = save_pack(image, store)
    whole = path.read_bytes()
    sectors = -(-len(whole) // _SECTOR)
    chance = random.Random(7)
    lost = [{number} for number in range(sectors)]
    lost += [{each for each in range(sectors) if chance.random() < 0.5} for _ in range(depth(20, 2000))]
    left = [
        b"".join(
            bytes(len(sector)) if number in holes else sector
            for number in range(sectors)
            for sector in [whole[number * _SECTOR : (number + 1) * _SECTOR]]
        )
        for holes in lost
    ]
    left = [each for each in left if each != whole]  # zeros as before
    assert len(left) > 40
    assert outcomes(path, iter(left), lambda: judge(image, store, expected)) == {"refused": len(left)}


@pytest.mark.parametrize("is_first", [True, False])
def test_a_pack_whose_builder_was_interrupted(image: Path, expected: Seen, store: Store, is_first: bool) -> None:
    """A temporary file, of which any part has been written: the last pack is used, and the next one takes its place."""
    path = save_pack(image, store)
    whole = path.read_bytes()
    temporary = path.with_name(path.name + ".tmp")
    if is_first:
        path.unlink()
    for size in range(0, len(whole), depth(97, 1)):
        temporary.write_bytes(whole[:size])
        temporary.chmod(0o600)
        assert judge(image, store, expected) == ("refused" if is_first else "same")
    assert save_pack(image, store) == path
    assert path.read_bytes() == whole
    assert not temporary.exists()
    assert os.path.getsize(path) == len(whole)
