"""A mount that is given too little: it is there and serves all reads, or it is not there, and one line says why."""

import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.depth import depth
from tests.images import Image, Layer, write_layout
from tests.shortage import Pids, is_done, limited, pids_cgroup
from tests.tars import file, tar

_FILES = {b"%02d" % number: random.Random(number).randbytes(1 << 20) for number in range(12)}
_PATIENCE = 60.0


@pytest.fixture
def image(ocifs: Ocifs, tmp_path: Path) -> Path:
    """An image that is indexed."""
    made = write_layout(tmp_path / "image", Image((Layer(tar([file(*each) for each in _FILES.items()])),)))
    ocifs.output("index", made)
    return made


@pytest.fixture
def pids(root: None) -> Iterator[Pids]:
    with pids_cgroup() as made:
        yield made


def read_all(mountpoint: Path) -> list[bytes | None]:
    """Read all files at once; None for each that cannot be read."""

    def read(name: bytes) -> bytes | None:
        try:
            return (mountpoint / os.fsdecode(name)).read_bytes()
        except OSError:
            return None

    with ThreadPoolExecutor(len(_FILES)) as threads:
        return list(threads.map(read, _FILES))


@pytest.mark.parametrize("count", depth([3, 8], [*range(1, 12)]))
def test_processes_and_threads_when_it_is_mounted(ocifs: Ocifs, image: Path, pids: Pids, count: int) -> None:
    pids.allow(count)
    mountpoint = ocifs.mountpoint()
    if is_done(pids.inside(ocifs).run("mount", "--read-timeout", "5", image, mountpoint)):
        assert read_all(mountpoint) == list(_FILES.values())
        ocifs.output("umount", mountpoint)
    assert ocifs.leftovers() == []


def test_no_more_threads_once_it_is_mounted(ocifs: Ocifs, image: Path, pids: Pids) -> None:
    with pids.inside(ocifs).mounted(image, "--read-timeout", "20", "--span-cache", "1MiB") as mountpoint:
        pids.allow()
        assert read_all(mountpoint) == list(_FILES.values())
        pids.lift()
        assert read_all(mountpoint) == list(_FILES.values())


@pytest.mark.parametrize("mebibytes", depth([60, 110, 400], [*range(30, 400, 10)]))
def test_memory(ocifs: Ocifs, image: Path, mebibytes: int) -> None:
    mountpoint = ocifs.mountpoint()
    if is_done(limited(ocifs, "as", mebibytes << 20).run("mount", "--read-timeout", "5", image, mountpoint)):
        began = time.monotonic()
        for found, right in zip(read_all(mountpoint), _FILES.values(), strict=True):
            assert found in {None, right}
        assert time.monotonic() - began < _PATIENCE
        ocifs.clear(mountpoint)
    assert ocifs.leftovers() == []
