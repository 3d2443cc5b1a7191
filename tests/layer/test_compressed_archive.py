"""Archives that are compressed as a whole."""

import gzip
import os
import random
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import zstandard

from ocifs.blobs.opening import open_cached
from ocifs.errors import InvalidImageError, LimitError, OcifsError
from ocifs.image.opening import open_image
from ocifs.image.verification import verify_image
from ocifs.layer.archive_member import ArchiveMember
from ocifs.layer.compressed_archive import KIND, open_compressed
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.options import Options
from ocifs.reader import FileReader
from ocifs.sources.reference import parse_reference
from ocifs.store import Store
from tests.images import Image, Layer, docker_files, layout_files, tar

NOISE = random.Random(1).randbytes(3 << 20)
IMAGE = Image(
    (Layer(tar({"a": NOISE, "b": b"base"}), "tar"), Layer(tar({"b": b"top"}), "gzip"), Layer(tar({"c": b"z"}), "zstd"))
)
SAVED = tar(dict(docker_files((IMAGE, ["app:1"]))))
LAYOUT = tar(dict(layout_files(IMAGE)))


def frames(data: bytes) -> bytes:
    """Return `data` as many zstd frames."""
    return b"".join(zstandard.compress(data[at : at + (1 << 20)]) for at in range(0, len(data), 1 << 20))


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
    "zstd frames": frames,
}


@pytest.fixture(params=COMPRESS)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What `docker save` writes, compressed."""
    path = tmp_path / "saved"
    path.write_bytes(COMPRESS[request.param](SAVED))
    return path


@pytest.mark.parametrize("tar_bytes", [SAVED, LAYOUT], ids=["docker-archive", "oci-archive"])
@pytest.mark.parametrize("compression", COMPRESS)
def test_an_image_in_one(tmp_path: Path, store: Store, tar_bytes: bytes, compression: str) -> None:
    (tmp_path / "a").write_bytes(COMPRESS[compression](tar_bytes))
    for _ in ("indexed", "from the cache"):
        with open_image(str(tmp_path / "a"), Options(store=store)) as image:
            assert image.rootfs.open("a").read() == NOISE
            assert image.rootfs.open("b").read() == b"top"
            assert image.rootfs.open("c").read() == b"z"


def test_verification_reads_all_of_it(saved: Path, store: Store) -> None:
    assert [check.problem for check in verify_image(str(saved), Options(store=store)) if check.problem] == []


def test_its_digest_is_kept_under_the_identity_of_the_file(saved: Path, store: Store) -> None:
    def digests() -> list[str]:
        return [entry.subject for entry in store.entries() if entry.kind.startswith(KIND.name)]

    for expected, times in ((1, None), (1, None), (2, (1, 1))):
        if times is not None:
            os.utime(saved, times)
        with closing(open_cached(parse_reference(str(saved)), store)):
            assert len(digests()) == expected


def test_a_damaged_digest_in_the_cache_is_computed_again(saved: Path, store: Store) -> None:
    with closing(open_cached(parse_reference(str(saved)), store)):
        pass
    subject = next(entry.subject for entry in store.entries() if entry.kind.startswith(KIND.name))
    store.get(KIND, subject, lambda out: out.write(b"sha256:\xff"), anew=True).close()
    with closing(open_cached(parse_reference(str(saved)), store)) as source:
        assert source.images()


@pytest.mark.parametrize("compression", ["gzip", "zstd frames"])  # the store has a copy of one long zstd frame
def test_a_file_that_changes_while_it_is_open(tmp_path: Path, store: Store, compression: str) -> None:
    saved = tmp_path / "saved"
    saved.write_bytes(COMPRESS[compression](SAVED))
    with open_image(str(saved), Options(store=store)):
        pass
    with open_image(str(saved), Options(store=store)) as image:  # its spans are not in memory
        with saved.open("r+b") as file:
            file.write(bytes(saved.stat().st_size))
        with pytest.raises(InvalidImageError, match="are not what they were"):
            image.rootfs.open("a").read()


@pytest.mark.parametrize(
    ("data", "limits", "error", "message"),
    [
        (gzip.compress(SAVED)[:-100], {}, InvalidImageError, "^{}: "),
        (gzip.compress(b"text" * 1000), {}, InvalidImageError, "^{}: its uncompressed bytes are text, not a tar"),
        (gzip.compress(gzip.compress(SAVED)), {}, InvalidImageError, "^{}: its uncompressed bytes are gzip"),
        (gzip.compress(SAVED), {"members": 3}, LimitError, "^{}: more than 3 tar entries: over the limit members"),
        (gzip.compress(SAVED), {"uncompressed": 1 << 20}, LimitError, "^{}: .*over the limit uncompressed"),
        (gzip.compress(bytes(30 << 20)), {"ratio": 9, "ratio_from": 1 << 20}, LimitError, "^{}: .* 9 times its size"),
        (zstandard.compress(SAVED)[:-100], {}, InvalidImageError, "^{}: "),
    ],
    ids=["cut gzip", "text", "twice", "members", "uncompressed", "ratio", "cut zstd"],
)
def test_hostile_files(
    tmp_path: Path, store: Store, data: bytes, limits: dict[str, int], error: type[OcifsError], message: str
) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    opened = len(os.listdir("/proc/self/fd"))
    with pytest.raises(error, match=message.format(path)):
        open_cached(parse_reference(str(path)), store, limits=Limits(**limits))
    assert len(os.listdir("/proc/self/fd")) <= opened


def test_limits_hold_for_an_indexed_one_too(saved: Path, store: Store) -> None:
    with closing(open_cached(parse_reference(str(saved)), store)):
        pass
    for limits in (Limits(members=3), Limits(uncompressed=1 << 20)):
        with pytest.raises(LimitError):
            open_cached(parse_reference(str(saved)), store, limits=limits)


def test_members_are_sections_of_the_stream(tmp_path: Path, store: Store) -> None:
    (tmp_path / "a").write_bytes(gzip.compress(SAVED))
    file = FileReader(os.open(tmp_path / "a", os.O_RDONLY))
    with closing(open_compressed(file, "a", store, DEFAULT_LIMITS, lambda digest, done, total: None)) as archive:
        entry = max(archive.entries(), key=lambda each: each.size)
        member = archive.section(entry.offset, entry.size)
        assert isinstance(member, ArchiveMember)
        for offset, size in ((0, 10), ((1 << 20) - 5, 10), (entry.size - 5, 10), (entry.size, 10), (entry.size + 1, 1)):
            expected = SAVED[entry.offset : entry.offset + entry.size][offset : offset + size]
            assert member.pread(size, offset) == expected
            member.will_need(size, offset)
