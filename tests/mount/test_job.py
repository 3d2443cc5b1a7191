"""What the command makes of a daemon that does not answer (tests/mounted has those that do)."""

import os
import signal
from pathlib import Path

import pytest

from ocifs.errors import MountError
from ocifs.image.opening import open_image
from ocifs.mount.framing import send_message
from ocifs.mount.job import Job, MountReply, mount
from ocifs.mount.options import MountOptions
from ocifs.mount.process import Daemon
from ocifs.mount.record import from_json, to_json
from ocifs.version import __version__
from tests.images import Image, write_layout


def test_a_daemon_that_is_stopped_is_given_up_and_ended(tmp_path: Path) -> None:
    with Daemon() as daemon, open_image(str(write_layout(tmp_path / "image", Image()))) as image:
        os.kill(daemon._process.pid, signal.SIGSTOP)
        with pytest.raises(MountError, match=r"the daemon did not answer within 0\.3 s: check whether something"):
            mount(daemon, Job.of(image, str(tmp_path), MountOptions(engine="fuse")), 0.3)
        assert daemon._process.returncode == -signal.SIGKILL


def test_a_daemon_that_is_killed_is_an_error(tmp_path: Path) -> None:
    with Daemon() as daemon, open_image(str(write_layout(tmp_path / "image", Image()))) as image:
        os.kill(daemon._process.pid, signal.SIGKILL)
        with pytest.raises(MountError, match="the daemon ended with status -9"):
            mount(daemon, Job.of(image, str(tmp_path), MountOptions(engine="fuse")))


def test_a_command_of_another_version_is_refused() -> None:
    with Daemon() as daemon:
        daemon.has_job = True
        send_message(daemon.socket, to_json(("0.0.9", {"its": "job"}, [])))
        reply = from_json(daemon.socket.recv(1 << 16), MountReply)
    assert reply.error == f"the daemon is ocifs {__version__}, the command 0.0.9: run the command again"
    assert reply.exit_code == MountError.exit_code
