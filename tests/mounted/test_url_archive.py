"""Mounts of archives on a web server: lazy, and never of two versions of the file."""

import errno
import os
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.images import Image, Layer, layout_files, tar
from tests.registry import Blob, Registry

FIRST, LAST = os.urandom(3_000_000), os.urandom(3_000_000)
IMAGE = Image((Layer(tar({"first": FIRST, "middle": os.urandom(40_000_000), "last": LAST}), "tar"),))
ARCHIVE = tar(dict(layout_files(IMAGE)))


def test_a_mount_reads_ranges_of_one_version(ocifs: Ocifs, engine: str, tmp_path: Path, registry: Registry) -> None:
    registry.files["/a.tar"] = Blob(ARCHIVE, headers=(("ETag", '"1"'),))
    url = f"{registry.base}/a.tar:latest"
    ocifs.output("ls", url)
    for path in tmp_path.rglob("blob1-*"):
        path.unlink()
    registry.requests.clear()
    with ocifs.mounted(url, "--engine", engine, "--no-prefetch") as mnt:
        assert (mnt / "first").read_bytes() == FIRST
        ranges = [each.range.removeprefix("bytes=").split("-") for each in registry.requests]
        assert 3_000_000 <= sum(int(last) + 1 - int(first) for first, last in ranges) < 20_000_000  # reading ahead
        registry.files["/a.tar"] = Blob(ARCHIVE, headers=(("ETag", '"2"'),))
        with pytest.raises(OSError, match="Input/output") as caught:
            (mnt / "last").read_bytes()
        assert caught.value.errno == errno.EIO
