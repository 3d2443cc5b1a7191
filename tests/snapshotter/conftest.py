"""What several tests of the snapshotter need: a service of ocifs in their process, and containerd of later Debians."""

from collections.abc import Callable, Iterator
from functools import cache

import pytest

from ocifs.service import starting
from ocifs.service.protocol import KeeperSettings
from tests.snapshotter import releases
from tests.snapshotter.releases import Release


@pytest.fixture(scope="module")
def service(root: None, erofs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run the service in the runtime directory of the test process: mounts by it need no start of Python."""
    starting.start(KeeperSettings(log=str(tmp_path_factory.mktemp("service") / "log")))
    yield
    starting.stop()


@pytest.fixture(scope="session")
def of_debian(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Release]:
    """Return a function that unpacks containerd and Docker of a Debian, each once."""
    place = tmp_path_factory.mktemp("debian")
    return cache(lambda suite: releases.of_debian(suite, place, "containerd", "docker.io", "docker-cli"))
