"""Mounts of the service whose index is published: a worker goes on where the last one ended."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.cli.command import Ocifs
from tests.indexes.windowed import DATA, SPANS, files, publish, ranges
from tests.registry import Registry
from tests.service.running import Service
from tests.service.test_dormant import sleep, start
from tests.waiting import wait_for


@pytest.fixture
def service(ocifs: Ocifs, registry: Registry, root: None, erofs: None) -> Iterator[Service]:
    image = registry.add("app", files())
    running = Service(replace(ocifs, environment={"OCIFS_NO_SERVICE": ""}), image)  # type: ignore[arg-type]
    try:
        yield running
    finally:
        running.end()


def test_the_next_worker_fetches_the_windows_that_it_needs(service: Service, registry: Registry) -> None:
    published = publish(registry)
    service.start()
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


@pytest.mark.parametrize("killed", [False, True])
def test_a_mount_is_idle_once_all_of_it_is_verified(service: Service, registry: Registry, *, killed: bool) -> None:
    """Dormant and later workers need no registry, and verify nothing again."""
    publish(registry)
    start(service.ocifs, 0.2)
    with service.mounted("--hot-pack", "0") as mountpoint:
        wait_for(lambda: all(layer.verified_at for layer in service.listed(mountpoint).layers))
        pid = sleep(service, mountpoint)
        if killed:
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: service.restarts(mountpoint) == 1)
        registry.requests.clear()
        registry.sent.clear()
        assert (mountpoint / "data").read_bytes() == DATA
        layers = service.listed(mountpoint).layers
        assert [layer.index for layer in layers] == [None]
        assert registry.sent == []
