"""The second start of an image reads its hot pack, and no span.

To see that, the blob is overwritten after the first start: what the pack has is still read, and the rest is EIO.
"""

import errno
import os
import random
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.images import Image, Layer, write_layout
from tests.tars import file, tar
from tests.waiting import wait_for

HOT = random.Random(1).randbytes(400_000)
COLD = random.Random(2).randbytes(6_000_000)
LAYER = Layer(tar([file(b"hot", HOT), file(b"cold", COLD), file(b"late", HOT[::-1])]), "gzip")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_layout(tmp_path / "image", Image(layers=(LAYER,)))


def packs(ocifs: Ocifs) -> list[Path]:
    return sorted(path for path in (ocifs.cache / "entries").glob("*pack1-*") if path.suffix != ".tmp")


def blob_of(image: Path) -> Path:
    return max((image / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)


def spoil(image: Path) -> None:
    """Overwrite the layer."""
    blob = blob_of(image)
    blob.write_bytes(bytes(blob.stat().st_size))


def read(path: Path) -> bytes:
    """Read a file in small pieces, without readahead."""
    with path.open("rb", buffering=0) as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        return b"".join(iter(lambda: opened.read(4096), b""))


def start(ocifs: Ocifs, image: Path, *options: str) -> None:
    """Let a workload read the hot file, and wait until that is saved."""
    before = [(path, path.stat().st_mtime_ns) for path in packs(ocifs)]
    with ocifs.mounted(image, *options) as mnt:
        assert read(mnt / "hot") == HOT
    wait_for(lambda: [(path, path.stat().st_mtime_ns) for path in packs(ocifs)] != before)


def assert_only_hot(mnt: Path) -> None:
    assert (mnt / "hot").read_bytes() == HOT
    with (mnt / "cold").open("rb") as cold, pytest.raises(OSError, match="Input/output error") as caught:
        os.pread(cold.fileno(), 1, len(COLD) - 1)
    assert caught.value.errno == errno.EIO


def test_the_next_mount_decodes_no_span_of_what_was_read(ocifs: Ocifs, image: Path) -> None:
    start(ocifs, image)
    assert "pack1 " in ocifs.output("cache", "ls")
    spoil(image)
    with ocifs.mounted(image) as mnt:
        assert_only_hot(mnt)
    ocifs.output("cache", "clear")
    assert packs(ocifs) == []


def test_a_pack_is_saved_at_the_first_pause(ocifs: Ocifs, image: Path) -> None:
    with ocifs.mounted(image) as mnt:
        assert read(mnt / "hot") == HOT
        wait_for(lambda: packs(ocifs) != [])
    spoil(image)
    with ocifs.mounted(image) as mnt:
        assert_only_hot(mnt)


def test_another_workload_extends_the_pack(ocifs: Ocifs, image: Path) -> None:
    start(ocifs, image)
    with ocifs.mounted(image) as mnt:
        assert read(mnt / "late") == HOT[::-1]
    (pack,) = packs(ocifs)
    wait_for(lambda: pack.stat().st_size > 700_000)
    spoil(image)
    with ocifs.mounted(image) as mnt:
        assert_only_hot(mnt)
        assert (mnt / "late").read_bytes() == HOT[::-1]


def test_a_mount_without_a_pack_neither_reads_nor_makes_one(ocifs: Ocifs, image: Path) -> None:
    with ocifs.mounted(image, "--hot-pack", "0") as mnt:
        assert read(mnt / "hot") == HOT
    ocifs.leftovers()
    assert packs(ocifs) == []
    start(ocifs, image)
    spoil(image)
    with ocifs.mounted(image, "--hot-pack", "0") as mnt, pytest.raises(OSError, match="Input/output error"):
        (mnt / "hot").read_bytes()


def test_a_damaged_pack_is_ignored_and_made_again(ocifs: Ocifs, image: Path) -> None:
    start(ocifs, image)
    (pack,) = packs(ocifs)
    data = pack.read_bytes()
    pack.write_bytes(data[:5000] + bytes(byte ^ 1 for byte in data[5000:-200]) + data[-200:])
    start(ocifs, image)
    spoil(image)
    with ocifs.mounted(image) as mnt:
        assert_only_hot(mnt)
