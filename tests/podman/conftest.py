"""podman with a storage of its own, and a store of ocifs in its configuration."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ocifs.mount.mountinfo import mount_table
from tests.cli.command import Ocifs
from tests.conftest import leaving_nothing
from tests.containers.conftest import image_of_programs
from tests.depth import FULL
from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, hardlink, symlink, tar

_STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{home}/root"
runroot = "{home}/runroot"
[storage.options]
additionalimagestores = ["{store}"]
"""
_CONTAINERS = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
netns = "none"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
"""Settings that podman needs on machines without systemd, and inside containers."""

PROGRAMS = image_of_programs()
LOWER = Layer(
    tar(
        [
            directory(b"srv/old/"),
            file(b"srv/old/gone", b"gone\n"),
            file(b"srv/kept", b"kept\n"),
            file(b"srv/target", b"shared\n", uid=33, gid=33, mode=0o640),
        ]
    )
)
UPPER = Layer(
    tar(
        [
            file(b"etc/twice", b"first" * 1000),
            file(b"etc/.wh.secret"),
            directory(b"srv/old/"),
            file(b"srv/old/.wh..wh..opq"),
            file(b"srv/old/new", b"new\n"),
            hardlink(b"srv/link", b"srv/target"),
            symlink(b"srv/s", b"/etc"),
            file(b"srv/s/through", b"through\n"),
            file(b"etc/twice", b"second\n"),
            directory(b"data/"),
            file(b"data/seed", b"seed\n", mode=0o600, uid=33, gid=4),
        ]
    )
)
SIBLING = Layer(tar([file(b"srv/sibling", b"sibling\n")]))
APP = Image((PROGRAMS.layers[0], LOWER, UPPER), config=PROGRAMS.config)
"""An image with whiteouts, an opaque directory, a name that occurs twice, and a path through a symlink."""


def with_layer(layer: Layer) -> Image:
    """Return `APP` with one more layer."""
    return Image((*APP.layers, layer), config=PROGRAMS.config)


@dataclass(frozen=True)
class Podman:
    """podman with its files below `home`."""

    home: Path
    store: Path
    become: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def configure(self) -> None:
        (self.home / "storage.conf").write_text(_STORAGE.format(home=self.home, store=self.store))
        (self.home / "containers.conf").write_text(_CONTAINERS)

    def run(self, *arguments: str | Path, program: str = "podman") -> "subprocess.CompletedProcess[str]":
        own = {
            "CONTAINERS_STORAGE_CONF": str(self.home / "storage.conf"),
            "CONTAINERS_CONF": str(self.home / "containers.conf"),
            "HOME": str(self.home),
        }
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "DOCKER_"))}
        command = [*self.become, program, *map(str, arguments)]
        return subprocess.run(
            command,
            env={**clean, **own, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def output(self, *arguments: str | Path) -> str:
        """Return its output; it must succeed."""
        ran = self.run(*arguments)
        assert ran.returncode == 0, ran
        return ran.stdout

    def with_subordinate_ids(self, place: Path) -> "Podman":
        """Return the same where root's containers have subordinate ids; `place` is a new file."""
        if self.become:
            return self
        place.write_text("containers:300000:200000\n")
        bind = f"mount --bind {place} /etc/subuid && mount --bind {place} /etc/subgid"
        return replace(self, become=("unshare", "--mount", "sh", "-c", f'{bind} && exec "$@"', "sh"))

    def sh(self, image: str, script: str, *options: str) -> str:
        """Return the output of a script in a new container of an image."""
        return self.output("run", "--rm", *options, image, "/bin/sh", "-c", script)

    def layers(self) -> set[str]:
        """Return the layers that podman has unpacked itself."""
        directory = self.home / "root" / "overlay"
        return {name for name in os.listdir(directory) if len(name) == 64} if directory.exists() else set()

    def clear(self) -> None:
        """Remove all its containers and images."""
        self.run("rm", "--all", "--force", "--time", "0")
        for mount in reversed(mount_table()):
            if mount.mountpoint.startswith(f"{self.home}/"):
                subprocess.run(["umount", "--lazy", mount.mountpoint], check=False)


@contextmanager
def short_directory() -> Iterator[Path]:
    """Yield a directory with a short name.

    With more than 50 characters in the name of its `runroot`, podman does not hear of the end of a container, and waits
    for 20 seconds.
    """
    with tempfile.TemporaryDirectory(prefix="ocifs-podman-", ignore_cleanup_errors=True) as name:
        yield Path(name).resolve()


@contextmanager
def podman_with(store: Path, home: Path, become: tuple[str, ...]) -> Iterator[Podman]:
    podman = Podman(home, store, become)
    podman.configure()
    try:
        yield podman
    finally:
        podman.clear()


@pytest.fixture(scope="session", autouse=True)
def _podman(root: None, fuse: None) -> None:
    """Skip all tests on machines without podman or its requirements."""
    if missing := [name for name in ("podman", "runc") if shutil.which(name) is None]:
        pytest.skip(f"missing: {', '.join(missing)}")


@pytest.fixture(scope="module")
def ocifs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ocifs]:
    with leaving_nothing(Ocifs(tmp_path_factory.mktemp("podman"))) as command:
        yield command


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_layout(tmp_path_factory.mktemp("app") / "app", APP)


@pytest.fixture(scope="module")
def store(ocifs: Ocifs, app: Path) -> Iterator[Path]:
    """A store with the image `localhost/app`."""
    directory = ocifs.home / "store"
    added = ocifs.run("store", "add", directory, app)
    assert added.code == 0, added
    yield directory
    ocifs.clear(directory / "overlay")


@pytest.fixture(scope="session")
def trixie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minimal Debian 13, which has podman 5.4: in `OCIFS_TRIXIE`, or made by debootstrap with --full."""
    if made := os.environ.get("OCIFS_TRIXIE"):
        return Path(made)
    if not FULL or shutil.which("debootstrap") is None:
        pytest.skip("podman of Debian 13 is for scripts/test --full, with debootstrap")
    root = tmp_path_factory.mktemp("trixie") / "root"
    packages = "--include=podman,buildah,skopeo,runc,uidmap,passwd"
    command = ["debootstrap", "--variant=minbase", packages, "trixie", str(root), "http://deb.debian.org/debian"]
    subprocess.run(command, check=True, capture_output=True)
    return root


_ENTER = """\
root=$1 && shared=$2 && home=$3 && shift 3
mount --bind "$root" "$root"
for each in /proc /sys /dev "$shared" "$home"; do mkdir -p "$root$each" && mount --rbind "$each" "$root$each"; done
echo containers:300000:200000 >"$root/etc/subuid" && cp "$root/etc/subuid" "$root/etc/subgid"
cd "$root" && mkdir -p old && pivot_root . old && umount --lazy old
exec "$@"
"""
"""Run a command with another root directory: in a chroot, user namespaces fail."""


@pytest.fixture(scope="module", params=["of this machine", "of Debian 13"])
def podman(request: pytest.FixtureRequest, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    with short_directory() as home:
        if request.param == "of this machine":
            become: tuple[str, ...] = ()
        else:
            root = request.getfixturevalue("trixie")
            shared = str(tmp_path_factory.getbasetemp())
            become = ("unshare", "--mount", "sh", "-e", "-c", _ENTER, "sh", str(root), shared, str(home))
        with podman_with(store, home, become) as podman:
            yield podman
