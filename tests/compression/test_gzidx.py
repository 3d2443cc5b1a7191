"""GZIDX files that indexed_gzip wrote, and files for indexed_gzip."""

import gzip as standard_gzip
import io
import random
import struct
from itertools import pairwise
from pathlib import Path

import indexed_gzip
import pytest

from ocifs.compression import gzip
from ocifs.compression.gzidx import GzidxPass, read_gzidx, write_gzidx
from ocifs.errors import InvalidImageError, OcifsError
from ocifs.reader import BytesReader

PART = random.Random(1).randbytes(700_000) + bytes(700_000)
DATA = PART * 4
ONE = standard_gzip.compress(DATA, mtime=0)
SEVERAL = standard_gzip.compress(PART, mtime=0) * 4


def made(path: Path, blob: bytes, spacing: int = 1 << 20) -> str:
    """Have indexed_gzip make the file."""
    with indexed_gzip.IndexedGzipFile(io.BytesIO(blob), spacing=spacing) as file:
        file.build_full_index()
        file.export_index(str(path))
    return str(path)


def gone_through(blob: bytes, path: str) -> bytes:
    """Return what the pass gives, which its points must give too."""
    with GzidxPass(BytesReader(blob), path) as reading:
        stream = b"".join(reading.chunks())
        points = list(reading.checkpoints())
    assert reading.consumed == len(blob)
    decoded = b"".join(
        gzip.decode(blob[begin.offset : end.offset + (end.bits > 0)], begin, 0).read(end.start - begin.start)
        for begin, end in pairwise(points)
    )
    assert decoded == stream
    return stream


@pytest.mark.parametrize(
    "blob",
    [ONE, SEVERAL, ONE + bytes(512), standard_gzip.compress(b"", mtime=0)],
    ids=["one", "several", "padded", "nothing"],
)
def test_what_indexed_gzip_has_made(tmp_path: Path, blob: bytes) -> None:
    assert gone_through(blob, made(tmp_path / "gzidx", blob)) == standard_gzip.decompress(blob)


@pytest.mark.parametrize("blob", [ONE, SEVERAL], ids=["one", "several"])
def test_indexed_gzip_reads_what_is_written(tmp_path: Path, blob: bytes) -> None:
    with GzidxPass(BytesReader(blob), made(tmp_path / "gzidx", blob)) as reading:
        for _ in reading.chunks():
            pass
        points = list(reading.checkpoints())
    path = tmp_path / "written"
    with path.open("wb") as file:
        write_gzidx(file, len(blob), len(DATA), len(points) - 1, points[:-1])
    with path.open("rb") as file:
        assert [point._replace(window=b"") for point in read_gzidx(file, len(blob))] == [
            point._replace(window=b"") for point in points
        ]
    with indexed_gzip.IndexedGzipFile(io.BytesIO(blob), index_file=str(path)) as file:
        assert len(list(file.seek_points())) == len(points) - 1
        for place in (5_000_000, 3_000_000, 10, 1_400_000, 0):
            file.seek(place)
            assert file.read(100_000) == DATA[place : place + 100_000]
    assert gone_through(blob, str(path)) == DATA


def test_damage_gives_no_other_bytes_unseen(tmp_path: Path) -> None:
    """What is decoded is the stream, or not: then the diff ID tells. What is kept is what was decoded by."""
    path = tmp_path / "gzidx"
    whole = Path(made(path, ONE)).read_bytes()
    chance = random.Random(2)
    places = [*range(200), *(chance.randrange(len(whole)) for _ in range(100))]
    seen: set[bool | None] = set()
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(8)]) + whole[place + 1 :])
        try:
            seen.add(gone_through(ONE, str(path)) == DATA)
        except InvalidImageError:
            seen.add(None)
    assert None in seen
    assert True in seen  # a spacing, or a byte of a window that nothing refers to
    for cut in range(0, len(whole), 997):
        path.write_bytes(whole[:cut])
        with pytest.raises(InvalidImageError):
            gone_through(ONE, str(path))


def test_a_file_that_changes_between_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gzidx"
    whole = bytearray(Path(made(path, ONE)).read_bytes())
    with GzidxPass(BytesReader(ONE), str(path)) as reading:
        assert b"".join(reading.chunks()) == DATA
        whole[len(whole) // 2] ^= 1
        path.write_bytes(whole)
        with pytest.raises(InvalidImageError, match="it changed while ocifs read it"):
            list(reading.checkpoints())


def test_points_too_far_apart(tmp_path: Path) -> None:
    blob = standard_gzip.compress(bytes(20 << 20), 1)
    path = made(tmp_path / "gzidx", blob, 10 << 20)
    with pytest.raises(InvalidImageError, match="bytes apart, more than 8388608: create it again with a spacing"):
        gone_through(blob, path)


def test_a_file_of_another_blob(tmp_path: Path) -> None:
    with pytest.raises(InvalidImageError, match="its blob has"):
        gone_through(ONE, made(tmp_path / "gzidx", SEVERAL))


def test_what_follows_the_stream_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "gzidx"
    data = bytearray(Path(made(path, ONE)).read_bytes())
    struct.pack_into("<Q", data, 7, len(ONE) + 5)
    path.write_bytes(data)
    with pytest.raises(InvalidImageError, match="does not end at the end of the blob"):
        gone_through(ONE + b"extra", str(path))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(OcifsError, match="missing: No such file"):
        gone_through(ONE, str(tmp_path / "missing"))
