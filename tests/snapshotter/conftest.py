"""A service of ocifs for the snapshotters in the processes of the tests: its mounts need no start of Python."""

from collections.abc import Iterator

import pytest

from ocifs.service import starting
from ocifs.service.protocol import Settings


@pytest.fixture(scope="module")
def service(root: None, erofs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run the service in the runtime directory of the test process."""
    starting.start(Settings(log=str(tmp_path_factory.mktemp("service") / "log")))
    yield
    starting.stop()
