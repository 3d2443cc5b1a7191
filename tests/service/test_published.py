"""Mounts of the service whose index is published: a worker goes on where the last one ended."""

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.cli.command import Ocifs
from tests.indexes.windowed import DATA, SPANS, files, publish, ranges
from tests.registry import Registry
from tests.service.running import Service
from tests.waiting import wait_for


@pytest.fixture
def service(ocifs: Ocifs, registry: Registry, root: None, erofs: None) -> Iterator[Service]:
    image = registry.add("app", files())
    running = Service(replace(ocifs, environment={"OCIFS_NO_SERVICE": ""}), image)  # type: ignore[arg-type]
    running.start()
    try:
        yield running
    finally:
        running.end()


def test_the_next_worker_fetches_the_windows_that_it_needs(service: Service, registry: Registry) -> None:
    published = publish(registry)
    with service.mounted("--no-prefetch") as mountpoint, (mountpoint / "data").open("rb") as file:

        def read(offset: int) -> None:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            assert os.pread(file.fileno(), 4096, offset) == DATA[offset : offset + 4096]

        read(2 << 20)
        first = ranges(registry, published)
        assert len(first) == 2
        service.kill_worker(mountpoint)
        read((SPANS - 2) << 20)
        second = ranges(registry, published)
        assert len(second) == 3
        before = service.keeper
        service.ocifs.output("service", "upgrade")
        wait_for(lambda: service.keepers() != [before] and service.keeps(mountpoint))
        read(7 << 20)
        assert len(ranges(registry, published)) == 4
        assert file.read() == DATA
