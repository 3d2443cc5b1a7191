"""Mounts of images whose layers carry a TOC, from a registry: used at once, proven or refuted in the background."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ocifs.spec.digest import Digest
from tests.cli.command import Ocifs
from tests.images import Image, layout_files
from tests.registry import Registry, status
from tests.tars import file, pax, tar
from tests.tocs import WRITERS, Document, TocLayer, estargz, zstd_chunked
from tests.waiting import wait_for

FIRST, LAST = os.urandom(300_000), os.urandom(300_000)
MIDDLE = os.urandom(8_000_000)
TAR = tar([file(b"first", FIRST), file(b"middle", MIDDLE), file(b"holes", bytes(99_999)), file(b"last", LAST)])


def put(registry: Registry, layer: TocLayer) -> str:
    registry.add("app", layout_files(Image((layer,))))
    return f"docker://{registry.host}/app"


def state(ocifs: Ocifs) -> dict[str, object]:
    (mount,) = [each for each in json.loads(ocifs.output("mounts", "--json")) if each["pid"]]
    return dict(mount)


def is_proven(ocifs: Ocifs) -> bool:
    return "unverified" not in ocifs.output("mounts")


def fetched(registry: Registry, layer: TocLayer) -> int:
    ranges = [each.range for each in registry.sent if each.path.endswith(str(Digest.of(layer.blob)))]
    bounds = [each.removeprefix("bytes=").split("-") for each in ranges]
    return sum(int(last) - int(first) + 1 for first, last in bounds)


def read(mnt: Path) -> None:
    assert (mnt / "last").read_bytes() == LAST
    assert (mnt / "first").read_bytes() == FIRST
    assert (mnt / "holes").read_bytes() == bytes(99_999)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_is_not_read_is_not_fetched(
    ocifs: Ocifs, registry: Registry, engine: str, write: Callable[..., TocLayer]
) -> None:
    layer = write(TAR, chunk=64 << 10)
    image = put(registry, layer)
    with ocifs.mounted(image, "--engine", engine, "--no-prefetch") as mnt:
        assert set(os.listdir(mnt)) - {"stargz.index.json"} == {"first", "holes", "last", "middle"}
        read(mnt)
        assert fetched(registry, layer) < 5_000_000
        assert ", unverified" in ocifs.output("mounts")
        registry.fault(status(404), "")
        with (mnt / "middle").open("rb") as file, pytest.raises(OSError, match="Input/output error"):
            os.pread(file.fileno(), 1, 5_000_000)
        registry.faults.clear()
        assert (mnt / "middle").read_bytes() == MIDDLE


def test_the_rest_is_fetched_and_proven(ocifs: Ocifs, registry: Registry, engine: str) -> None:
    image = put(registry, zstd_chunked(TAR, chunk=64 << 10))
    with ocifs.mounted(image, "--engine", engine) as mnt:
        wait_for(lambda: is_proven(ocifs))
        registry.fault(status(404), "/blobs/")
        read(mnt)
    with ocifs.mounted(image, "--engine", engine) as mnt:
        assert is_proven(ocifs)
        read(mnt)


def lie(document: Document) -> None:
    next(each for each in document["entries"] if each["name"] == "first")["mode"] = 0o4755


def test_a_toc_that_lied_is_refuted(ocifs: Ocifs, registry: Registry, engine: str) -> None:
    image = put(registry, estargz(TAR, alter=lie))
    with ocifs.mounted(image, "--engine", engine) as mnt:
        wait_for(lambda: state(ocifs)["refuted"] is not None)
        with (mnt / "middle").open("rb") as file, pytest.raises(OSError, match="Input/output error") as caught:
            file.read(1)
        assert caught.value.errno == errno.EIO
    assert "its TOC gives 'first' another mode than its tar" in ocifs.log.read_text()


def test_attributes_that_the_toc_loses_come_from_the_tar_once_that_is_here(
    ocifs: Ocifs, registry: Registry, engine: str
) -> None:
    """Go's archive/tar, by which TOCs are written, drops empty ones and those that are libarchive's."""
    records = {
        b"SCHILY.xattr.user.kept": b"1",
        b"SCHILY.xattr.user.overlay.origin": b"",
        b"SCHILY.xattr.user.empty": b"",
        b"LIBARCHIVE.xattr.user.libarchive": b"MQ",
    }
    image = put(registry, zstd_chunked(tar([pax(records) + file(b"first", FIRST)])))
    with ocifs.mounted(image, "--engine", engine) as mnt:
        assert os.listxattr(mnt / "first") == ["user.kept"]
        wait_for(lambda: is_proven(ocifs))
        assert (mnt / "first").read_bytes() == FIRST
        assert state(ocifs)["refuted"] is None
    with ocifs.mounted(image, "--engine", engine) as mnt:
        assert sorted(os.listxattr(mnt / "first")) == ["user.empty", "user.kept", "user.libarchive"]


def test_verified_first(ocifs: Ocifs, registry: Registry, engine: str) -> None:
    options = ("--engine", engine, "--toc", "verify")
    with ocifs.mounted(put(registry, estargz(TAR)), *options) as mnt:
        assert is_proven(ocifs)
        read(mnt)
    mountpoint = ocifs.home / "elsewhere"
    mountpoint.mkdir()
    failed = ocifs.run("mount", *options, put(registry, estargz(TAR, alter=lie)), mountpoint)
    assert failed.code != 0
    assert "its TOC gives 'first' another mode than its tar" in failed.err


def test_times_that_the_toc_rounds_come_from_the_tar_once_that_is_here(
    ocifs: Ocifs, registry: Registry, engine: str
) -> None:
    layer = estargz(tar([pax({b"mtime": b"5.25"}), file(b"first", FIRST)]), alter=rounded)
    image = put(registry, layer)
    with ocifs.mounted(image, "--engine", engine) as mnt:
        assert (mnt / "first").stat().st_mtime_ns == 5_000_000_000
        wait_for(lambda: is_proven(ocifs))
    before = fetched(registry, layer)
    with ocifs.mounted(image, "--engine", engine) as mnt:
        assert (mnt / "first").stat().st_mtime_ns == 5_250_000_000
        assert (mnt / "first").read_bytes() == FIRST
    assert fetched(registry, layer) == before


def rounded(document: Document) -> None:
    document["entries"][0]["modtime"] = "1970-01-01T00:00:05Z"
