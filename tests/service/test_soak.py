"""The loops of docs/reliability.md: workers killed at random moments, and upgrades, under readers of every kind."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.depth import depth
from tests.images import Image, Layer, write_layout
from tests.service import load
from tests.service.running import Service
from tests.tars import file, tar
from tests.waiting import wait_for

KILLS = depth(5, 200)
UPGRADES = depth(2, 50)
KINDS = depth(["tar", "random", "cold", "run"], [*load.KINDS, *load.KINDS, "cold", "tar"])
"""One for each reader."""
SIZE = 2 << 20


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the image: some that compress, some that do not, and a program."""
    directory = tmp_path_factory.mktemp("contents")
    for number in range(8):
        block = random.Random(number).randbytes(SIZE if number % 2 else SIZE >> 4)
        (directory / f"{number:02}").write_bytes(block * (1 if number % 2 else 16))
    shutil.copy("/bin/echo", directory / "echo")
    return directory


@pytest.fixture(scope="module")
def large(contents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    members = [file(path.name.encode(), path.read_bytes(), mode=0o755) for path in sorted(contents.iterdir())]
    layers = (Layer(tar(members[::2]), "gzip"), Layer(tar(members[1::2]), "zstd"))
    return write_layout(tmp_path_factory.mktemp("large") / "image", Image(layers=layers))


@pytest.fixture
def mounted(command: Ocifs, large: Path) -> Iterator[tuple[Service, list[Path]]]:
    """Two mounts of the image, which share spans, with less memory than these take."""
    service = Service(command, large)
    service.start(restart_limit=100_000, log=str(command.log), span_cache=6 << 20)
    try:
        options = "--span-cache", "4MiB", "--hot-pack", "0"
        with service.mounted(*options) as first, service.mounted(*options) as second:
            yield service, [first, second]
    finally:
        service.end()


@contextmanager
def readers(mountpoints: list[Path], contents: Path, stop: Path) -> Iterator[None]:
    """Run the readers of the mounts meanwhile; each must have read, without an error."""
    processes = [
        subprocess.Popen(
            [sys.executable, load.__file__, kind, mountpoints[number % 2], contents, stop],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number, kind in enumerate(KINDS)
    ]
    try:
        yield
    finally:
        stop.touch()
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    print(*outputs, sep="")
    for kind, output in zip(KINDS, outputs, strict=True):
        name, count, wrong = output.split(maxsplit=2)
        assert (name, wrong.strip()) == (kind, "[]")
        assert int(count) > 0


def test_readers_of_every_kind_while_workers_are_killed(
    mounted: tuple[Service, list[Path]], contents: Path, tmp_path: Path
) -> None:
    service, mountpoints = mounted
    with readers(mountpoints, contents, tmp_path / "stop"):
        for number in range(KILLS):
            time.sleep(random.Random(number).uniform(0, 0.5))
            mountpoint = mountpoints[number % 2]
            before = service.worker(mountpoint)
            os.kill(before, signal.SIGKILL)
            wait_for(lambda: service.listed(mountpoint).pid != before)  # noqa: B023
    assert sum(map(service.restarts, mountpoints)) == KILLS
    for mountpoint in mountpoints:
        numbers = service.listed(mountpoint).numbers
        assert numbers is not None
        assert sum(numbers.errors.values()) == 0
        print(numbers)
    print(service.state())


def test_readers_of_every_kind_while_the_service_is_upgraded(
    mounted: tuple[Service, list[Path]], contents: Path, tmp_path: Path
) -> None:
    service, mountpoints = mounted
    with readers(mountpoints, contents, tmp_path / "stop"):
        for _ in range(UPGRADES):
            service.ocifs.output("service", "upgrade")
            wait_for(lambda: all(map(service.keeps, mountpoints)))
    assert not any(map(service.restarts, mountpoints))
