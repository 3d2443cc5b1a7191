"""Which sockets a command of root connects to: those of root's service, in directories that only root can change."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocifs.service import connection
from ocifs.service.connection import SERVICE, connect
from tests.cli.command import Ocifs
from tests.mounted.test_other_users import mounted_by_another

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Any listener of root, in `tmp_path`; a service of this machine is not asked."""
    monkeypatch.setattr(connection, "SYSTEM_DIRECTORY", str(tmp_path / "none"))
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / SERVICE))
        made.listen()
        made.setblocking(False)
        yield made


def is_asked(listener: socket.socket) -> bool:
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def test_the_runtime_directory_of_root(
    listener: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "run").mkdir(mode=0o700)
    assert connect() is None
    (tmp_path / "run/ocifs").mkdir(mode=0o700)
    assert connect() is None
    (tmp_path / SERVICE).rename(tmp_path / "run/ocifs" / SERVICE)
    made = connect()
    assert made is not None
    made.close()
    assert is_asked(listener)


@pytest.mark.parametrize("owner", [65534, 0])
@pytest.mark.parametrize("link", ["ocifs", f"ocifs/{SERVICE}"])
def test_not_one_that_another_user_chooses(
    listener: socket.socket, tmp_path: Path, user: Ocifs, monkeypatch: pytest.MonkeyPatch, link: str, owner: int
) -> None:
    """It would get the environment, the arguments and the output of the command."""
    if link == "ocifs":
        (user.runtime / link).symlink_to(tmp_path)
    else:
        (user.runtime / "ocifs").mkdir()
        (user.runtime / link).symlink_to(tmp_path / SERVICE)
    os.chown(user.runtime / "ocifs", owner, -1, follow_symlinks=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(user.runtime))
    assert connect() is None
    assert not is_asked(listener)


def test_a_file_system_of_another_user_blocks_no_command(ocifs: Ocifs, user: Ocifs, fuse: None) -> None:
    """No process serves it, so any look into it would wait for ever."""
    runtime = user.home / "runtime"
    runtime.mkdir()
    with mounted_by_another(b"any", runtime):
        for arguments in (["mounts"], ["umount", str(user.home)]):
            ended = ocifs.run(*arguments, XDG_RUNTIME_DIR=str(runtime), OCIFS_NO_SERVICE="")
            assert ended.code in {0, 7}, ended
