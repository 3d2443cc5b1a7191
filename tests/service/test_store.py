"""A podman store is a mount like any other: the service keeps it, and a new tree replaces the old one."""

import os
import signal
from pathlib import Path
from unittest import mock

from ocifs.mount.record import ListedMount, list_mounts
from tests.cli.command import Ocifs
from tests.images import Image, Layer, tar, write_layout
from tests.service.conftest import content
from tests.service.running import Service
from tests.waiting import wait_for


def mounted(command: Ocifs) -> ListedMount:
    """Return the mount of the store, but not those that it replaced."""
    with mock.patch.dict(os.environ, XDG_RUNTIME_DIR=str(command.runtime)):
        (found,) = [each for each in list_mounts() if each.pid and each.state != "elsewhere"]
    return found


def test_the_service_keeps_a_store(service: Service, command: Ocifs, image: Path, tmp_path: Path) -> None:
    store = command.home / "store"
    added = command.run("store", "add", store, image)
    assert added.code == 0, added
    assert (mounted(command).kept is not None, mounted(command).image) == (True, f"{store} (1 image)")
    (path,) = (store / "overlay").glob("*/diff/03")
    with path.open("rb") as before:
        more = write_layout(tmp_path / "more", Image((Layer(tar({"more": b"more"})),)))
        assert command.run("store", "add", store, more).code == 0
        worker = mounted(command)
        assert worker.image == f"{store} (2 images)"
        os.kill(worker.pid, signal.SIGKILL)
        wait_for(lambda: mounted(command).pid != worker.pid)
        assert before.read() == content(3)  # of the tree before, whose worker lives as long as it is in use
    assert path.read_bytes() == content(3)
    assert [each.read_bytes() for each in (store / "overlay").glob("*/diff/more")] == [b"more"]
    command.output("store", "umount", store)
