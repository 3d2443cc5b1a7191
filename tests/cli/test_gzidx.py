"""Checkpoints of gzip layers from other tools, and for them."""

import gzip
import io
import os
import random
from pathlib import Path

import indexed_gzip
import pytest

from tests.cli.command import Ocifs
from tests.images import Image, Layer, tar, write_layout

ONE = Layer(tar({"one": random.Random(1).randbytes(3_000_000)}))
TWO = Layer(tar({"two": random.Random(2).randbytes(2_500_000)}))
ZSTD = Layer(tar({"three": b"3"}), "zstd")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_layout(tmp_path / "layout", Image((ONE, TWO, ZSTD)))


def made(path: Path, blob: bytes) -> Path:
    with indexed_gzip.IndexedGzipFile(io.BytesIO(blob), spacing=1 << 20) as file:
        file.build_full_index()
        file.export_index(str(path))
    return path


def test_points_are_taken_and_given_back(ocifs: Ocifs, image: Path, tmp_path: Path) -> None:
    one, two = (made(tmp_path / name, layer.blob) for name, layer in (("one", ONE), ("two", TWO)))
    ocifs.output("index", "--gzidx", one, "--gzidx", f"1={two}", image)
    assert ocifs.run("verify", image).code == 0
    with ocifs.mounted(image) as mnt:
        assert (mnt / "one").read_bytes() == random.Random(1).randbytes(3_000_000)
        assert (mnt / "two").read_bytes() == random.Random(2).randbytes(2_500_000)
    assert "is indexed already: its GZIDX file is not used" in ocifs.run("index", "--gzidx", one, image).err
    for number, layer in ((0, ONE), (-2, TWO)):
        written = tmp_path / f"written{number}"
        assert ocifs.output("index", "export", "--layer", str(number), "--to-gzidx", written, image) == ""
        with indexed_gzip.IndexedGzipFile(io.BytesIO(layer.blob), index_file=str(written)) as file:
            file.seek(1_500_000)
            assert file.read(1_000_000) == gzip.decompress(layer.blob)[1_500_000:2_500_000]
            assert len(list(file.seek_points())) > 1


def test_wrong_points_are_an_error_and_nothing_is_kept(ocifs: Ocifs, tmp_path: Path) -> None:
    alone = write_layout(tmp_path / "alone", Image((ONE,)))
    path = made(tmp_path / "points", ONE.blob)
    data = bytearray(path.read_bytes())
    data[35 + 18 + 8] ^= 1  # where the second point lies in the tar stream
    path.write_bytes(data)
    told = ocifs.complaint(4, "index", "--gzidx", path, alone)
    assert f"by the points of {path}: " in told
    assert not [name for name in os.listdir(ocifs.cache / "entries") if name.startswith("layer2")]
    ocifs.output("index", alone)


def test_complaints(ocifs: Ocifs, image: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no index, but longer than the header of one is")
    other = made(tmp_path / "other", gzip.compress(b"other"))
    cases: list[tuple[int, str, str]] = [
        (4, f"{tmp_path}/text", "text: not a GZIDX file of version 0 or 1"),
        (3, f"{other}", "no layer has the "),
        (4, f"0={other}", "its blob has"),
        (5, f"2={other}", "is zstd, not gzip: leave out its GZIDX file"),
        (3, f"7={other}", "there is no layer 7"),
        (1, f"{tmp_path}/missing", "missing: No such file or directory"),
        (1, f"0={tmp_path}/missing", "missing: No such file or directory"),
    ]
    for code, name, message in cases:
        assert message in ocifs.complaint(code, "index", "--gzidx", name, image)
    export = ("index", "export", "--layer")
    assert "it is zstd, not gzip" in ocifs.complaint(5, *export, "2", "--to-gzidx", tmp_path / "new", image)
    assert "no layer 9" in ocifs.complaint(3, *export, "9", "--to-gzidx", tmp_path / "new", image)
    assert "exists: name a new file" in ocifs.complaint(1, *export, "0", "--to-gzidx", other, image)
    assert not (tmp_path / "new").exists()
