"""Who may change what is mounted on a mountpoint."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ocifs.errors import MountError
from ocifs.mount.lock import locked


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def test_one_after_the_other() -> None:
    entered = threading.Event()
    left = threading.Event()
    order: list[str] = []

    def first() -> None:
        with locked("/mnt"):
            entered.set()
            left.wait(20)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(20)
    threading.Timer(0.1, left.set).start()
    with locked("/mnt"):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_others_do_not_wait() -> None:
    with locked("/mnt"), locked("/mnt/a"), locked("/mnt "):
        pass
    with locked("/mnt"):
        pass


def test_the_wait_for_a_lock_is_bounded() -> None:
    refused = pytest.raises(MountError, match=r"^/mnt is being mounted or unmounted by another ocifs")
    with locked("/mnt"), refused, locked("/mnt", patience=0.1):
        pass


def test_a_process_that_is_killed_lets_go(runtime: Path) -> None:
    script = "import os\nfrom ocifs.mount.lock import locked\nwith locked('/mnt'): print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    with locked("/mnt"):
        pass
    assert os.listdir(runtime / "ocifs") == ["mountpoints.lock"]


def test_no_symlink_is_taken_for_it(runtime: Path) -> None:
    (runtime / "ocifs").mkdir(mode=0o700)
    (runtime / "ocifs/mountpoints.lock").symlink_to(runtime / "elsewhere")
    with pytest.raises(MountError, match=r"^cannot lock /mnt: "), locked("/mnt"):
        pass
    assert not (runtime / "elsewhere").exists()
