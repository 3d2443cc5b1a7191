"""podman of an ordinary user: a store of its own, and one of root for this user."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.conftest import UNMOUNT_ALL
from tests.images import write_layout
from tests.podman.conftest import APP, Podman, short_directory

_UID = 4321
_USER = "ocifs-test"
_REPOSITORY = Path(__file__).parent.parent.parent
_OCIFS = "import sys; sys.argv[0] = 'ocifs'; from ocifs.cli.main import main; main()"
_FILES = {
    "passwd": f"{_USER}:x:{_UID}:{_UID}::{{home}}:/bin/sh\n",
    "group": f"{_USER}:x:{_UID}:\n",
    "subuid": f"{_USER}:700000:65536\n",
    "subgid": f"{_USER}:700000:65536\n",
}
_STORAGE = """\
[storage]
driver = "overlay"
[storage.options]
additionalimagestores = ["{store}"]
"""
_SCRIPT = (
    "stat -c '%u:%g' /srv/kept /srv/link /data/seed; cat /etc/twice /srv/old/*; test -e /etc/secret || echo no secret"
)
_EXPECTED = "0:0\n33:33\n33:4\nsecond\nnew\nno secret\n"


class Machine:
    """A mount namespace in which a user with subordinate ids exists, kept by a process."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.user = home / "user"
        self.runtime = home / "run"
        for directory in (self.user, self.runtime):
            directory.mkdir(mode=0o700)
            os.chown(directory, _UID, _UID)
        etc = home / "etc"
        etc.mkdir()
        commands = []
        for name, line in _FILES.items():
            before = Path("/etc", name).read_text() if Path("/etc", name).exists() else ""
            (etc / name).write_text(before + line.format(home=self.user))
            commands.append(f"mount --bind {etc / name} /etc/{name}")
        # The mounts go with the last process of the namespace. Those of other tests must not stay in it.
        self._keeper = subprocess.Popen(
            [
                "unshare",
                "--mount",
                "sh",
                "-c",
                f"{UNMOUNT_ALL}; {' && '.join(commands)} && echo ready && exec sleep 1000",
            ],
            stdout=subprocess.PIPE,
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == b"ready\n"
        self.enter = ("nsenter", "--mount", f"--target={self._keeper.pid}")
        self.environment = {
            "HOME": str(self.user),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "XDG_CACHE_HOME": str(self.user / "cache"),
            "PYTHONPATH": os.pathsep.join([str(_REPOSITORY), sysconfig.get_path("platlib")]),
            "OCIFS_NO_SERVICE": "1",
        }
        self.become = (*self.enter, "setpriv", f"--reuid={_UID}", f"--regid={_UID}", "--clear-groups")

    def podman(self, store: Path) -> Podman:
        podman = Podman(self.user, store, self.become, self.environment)
        podman.configure()
        (self.user / "storage.conf").write_text(_STORAGE.format(store=store))
        return podman

    def ocifs(self, *arguments: str | Path, root: bool = False) -> "subprocess.CompletedProcess[str]":
        own = {"HOME": str(self.home), "XDG_RUNTIME_DIR": str(self.home), "XDG_CACHE_HOME": str(self.home / "cache")}
        environment = {**os.environ, **self.environment, **(own if root else {})}
        interpreter = sys.executable if root else f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
        command = [*(self.enter if root else self.become), interpreter, "-c", _OCIFS, *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)

    def close(self) -> None:
        for pid in self.runtime.glob("libpod/tmp/pause.pid"):
            subprocess.run(["kill", "-KILL", pid.read_text()], check=False)
        self._keeper.kill()
        self._keeper.wait()
        assert self._keeper.stdout is not None
        self._keeper.stdout.close()


@pytest.fixture
def machine() -> Iterator[Machine]:
    if missing := [name for name in ("newuidmap", "nsenter") if shutil.which(name) is None]:
        pytest.skip(f"missing: {', '.join(missing)}")
    # Not in pytest's directory: each start of pytest closes that to other users, and podman would then wait for ever.
    with short_directory() as home:
        home.chmod(0o711)
        machine = Machine(home)
        try:
            if machine.ocifs("--version").returncode:
                pytest.skip("no interpreter with ocifs is open to an ordinary user")
            write_layout(home / "app", APP)
            yield machine
        finally:
            machine.close()


def test_a_store_of_its_own(machine: Machine) -> None:
    """It is mounted outside of podman's user namespace, by the fuse engine, with the user's subordinate ids."""
    store = machine.user / "store"
    added = machine.ocifs("store", "add", store, machine.home / "app")
    assert added.returncode == 0, added
    try:
        podman = machine.podman(store)
        assert podman.sh("localhost/app", _SCRIPT) == _EXPECTED
        assert podman.sh("localhost/app", "cat /srv/link", "--user=33") == "shared\n"
        (machine.user / "Containerfile").write_text(
            'FROM localhost/app\nRUN ["/bin/sh", "-c", "cat /srv/kept >/own"]\n'
        )
        podman.output("build", "--quiet", "--network", "none", "--tag", "own", machine.user)
        assert podman.sh("own", "cat /own") == "kept\n"
    finally:
        assert machine.ocifs("store", "umount", store).returncode == 0


def test_a_store_of_root_for_the_user(machine: Machine, erofs: None) -> None:
    """The mount maps the ids: podman without privileges runs on the kernel's EROFS."""
    store = machine.home / "store"
    added = machine.ocifs("store", "add", "--idmap", _USER, store, machine.home / "app", root=True)
    assert added.returncode == 0, added
    try:
        podman = machine.podman(store)
        assert podman.sh("localhost/app", _SCRIPT) == _EXPECTED
        assert podman.sh("localhost/app", "cat /srv/link", "--user=33") == "shared\n"
    finally:
        assert machine.ocifs("store", "umount", store, root=True).returncode == 0
