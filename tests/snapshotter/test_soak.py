"""The kill loops of docs/reliability.md with containers running: no container sees an error.

Programs of several images read files, compare their digests and start further programs, all the time. Meanwhile the
test kills the worker of a mount, the keeper, the snapshotter and containerd in turn, upgrades the service and restarts
the snapshotter. After each of these events every container has to read on, and new containers have to run.
"""

import hashlib
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ocifs.mount.mountinfo import is_below, mount_table
from tests.cli.command import Ocifs
from tests.cli.docker_registry import docker_registry, push
from tests.containers.conftest import image_of_programs
from tests.depth import depth
from tests.images import Image, Layer, write_layout
from tests.service.running import Service
from tests.snapshotter.cri import shims
from tests.snapshotter.node import Node, made_node
from tests.tars import directory, file, tar
from tests.waiting import wait_for

CYCLES = depth(1, 50)
IMAGES = depth(2, 5)
CONTAINERS = depth(3, 10)
WORKERS = 4
"""Kills of workers in each cycle; each other event happens once."""
PAUSE = depth("0.05", "0.3")
"""Seconds between two rounds of a reader."""
_PATIENCE = 120.0

_RUNC = ("runc", "--root", "/run/containerd/runc/default", "delete", "--force")

_READ = """
while [ ! -e /out/stop ]; do
    sha256sum --check --strict --quiet "/out/$2.sums" >>"/out/$1.errors" 2>&1 || echo "status $?" >>"/out/$1.errors"
    echo >>"/out/$1.count"
    sleep "$3"
done
: >"/out/$1.done"
"""
"""A reader with its own name, the number of its image, and a pause. /out is a directory of the test."""


def _files(number: int) -> dict[str, bytes]:
    """Return the files of an image: one that compresses, and two that do not."""
    content = random.Random(number)
    return {"text": content.randbytes(1 << 14) * 64, "data": content.randbytes(1 << 19), "more": content.randbytes(777)}


def _image(number: int) -> Image:
    programs = image_of_programs("sha256sum")
    members = [file(f"srv/{name}".encode(), data) for name, data in _files(number).items()]
    return Image((*programs.layers, Layer(tar([directory(b"srv/"), *members]))), config=programs.config)


class Soak:
    """A node whose processes are killed, and the containers on it."""

    def __init__(self, node: Node, service: Service, images: list[str], out: Path) -> None:
        self.node = node
        self.service = service
        self.images = images
        self.out = out
        self.events = 0
        self._snapshotter = ExitStack()
        self._containerd = ExitStack()
        service.start(restart_limit=100_000, log=str(node.ocifs.log))
        self.snapshotter = self._snapshotter.enter_context(node.snapshotter())
        self.containerd = self._containerd.enter_context(node.containerd())
        wait_for(node.is_connected)

    def start(self) -> None:
        """Start the containers."""
        mount = f"type=bind,src={self.out},dst=/out,options=rbind:rw"
        run = ("ctr", "run", "--detach", "--null-io", "--snapshotter", "ocifs", "--mount", mount)
        for image in self.images:
            self.node.pull(image)
        for count, name in enumerate(self.names):
            number = count % IMAGES
            self.node.ctr(*run, self.images[number], name, "sh", "-c", _READ, "sh", name, str(number), PAUSE)

    @property
    def names(self) -> list[str]:
        """The names of the containers, which runc keeps for the whole machine."""
        return [f"soak-{os.getpid()}-{number}" for number in range(CONTAINERS)]

    def count(self, name: str) -> int:
        """Return how often a container has read all its files: the length of its file of empty lines."""
        path = self.out / f"{name}.count"
        return path.stat().st_size if path.exists() else 0

    def kill_worker(self) -> None:
        self.service.kill_worker(self.mountpoints()[self.events % IMAGES])

    def kill_keeper(self) -> None:
        self.service.kill_keeper()
        self.service.start(restart_limit=100_000, log=str(self.node.ocifs.log))
        wait_for(lambda: all(map(self.service.keeps, self.mountpoints())))

    def kill_snapshotter(self) -> None:
        self._end(self.snapshotter)
        self.restart_snapshotter()

    def kill_containerd(self) -> None:
        self._end(self.containerd)
        (self.node.directory / "c.sock").unlink(missing_ok=True)
        self._containerd.close()
        self.containerd = self._containerd.enter_context(self.node.containerd())
        wait_for(self.node.is_connected)
        listed = self.node.ctr("ctr", "task", "ls")
        assert listed.count("RUNNING") == CONTAINERS, listed

    def upgrade_service(self) -> None:
        self.node.ocifs.output("service", "upgrade")
        wait_for(lambda: all(map(self.service.keeps, self.mountpoints())))

    def restart_snapshotter(self) -> None:
        self._snapshotter.close()
        self.snapshotter = self._snapshotter.enter_context(self.node.snapshotter())
        wait_for(self.node.is_connected)

    def mountpoints(self) -> list[Path]:
        """Return the mountpoints of the images."""
        return sorted((self.node.directory / "snapshots/images").iterdir())

    def happens(self, event: Callable[[], None]) -> None:
        """Let something happen while the containers read what is in no cache of the kernel; wait until each goes on."""
        before = {name: self.count(name) for name in self.names}
        Path("/proc/sys/vm/drop_caches").write_text("1")
        event()
        self.events += 1
        if event != self.kill_worker:
            image = self.events % IMAGES
            digest = hashlib.sha256(_files(image)["data"]).hexdigest()
            ran = self.node.run(self.images[image], f"soak-{os.getpid()}-new{self.events}", "sha256sum", "/srv/data")
            assert ran == f"{digest}  /srv/data\n"
        # One round may have been under way.
        wait_for(lambda: all(self.count(name) > count + 1 for name, count in before.items()), _PATIENCE)

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()

    def end(self) -> None:
        """Let the programs end, and remove the containers."""
        (self.out / "stop").touch()
        wait_for(lambda: all((self.out / f"{name}.done").exists() for name in self.names), _PATIENCE)
        for name in self.names:
            wait_for(lambda: "STOPPED" in self.node.ctr("ctr", "task", "ls").split(f"\n{name} ")[1].splitlines()[0])  # noqa: B023
            self.node.ctr("ctr", "task", "rm", name)
            self.node.ctr("ctr", "container", "rm", name)
        self.node.ctr("ctr", "image", "rm", "--sync", *self.images)

    def close(self) -> None:
        (self.out / "stop").touch()
        self._containerd.close()
        self._snapshotter.close()
        for pid in shims(self.node.directory / "c.sock"):
            os.kill(pid, signal.SIGKILL)
        for name in self.names:
            subprocess.run([*_RUNC, name], check=False, capture_output=True)
        for entry in reversed(mount_table()):
            if is_below(entry.mountpoint, str(self.node.directory / "state")):
                subprocess.run(["umount", "-l", entry.mountpoint], check=False)


@pytest.fixture
def soak(ocifs: Ocifs, tmp_path: Path, root: None, erofs: None) -> Iterator[Soak]:
    out = tmp_path / "out"
    for made in (out, tmp_path / "registry"):
        made.mkdir()
    with docker_registry(tmp_path / "registry") as host, made_node(ocifs, tmp_path) as node:
        node.release.program("ctr-remote")
        images = [f"{host}/app{number}:1" for number in range(IMAGES)]
        for number, image in enumerate(images):
            layout = write_layout(tmp_path / f"image{number}", _image(number))
            push(f"oci:{layout}:latest", host, f"app{number}:1")
            node.ocifs.output("index", "push", f"docker://{image}")
            sums = [f"{hashlib.sha256(data).hexdigest()}  /srv/{name}\n" for name, data in _files(number).items()]
            (out / f"{number}.sums").write_text("".join(sums))
        shutil.rmtree(node.ocifs.cache)
        running = Soak(node, Service(node.ocifs, tmp_path), images, out)
        try:
            yield running
        finally:
            running.close()


@pytest.mark.timeout(depth(300, 14400))
def test_no_container_sees_an_error_while_everything_is_killed(soak: Soak) -> None:
    soak.start()
    cycle = [
        *[soak.kill_worker] * WORKERS, soak.kill_keeper, soak.kill_snapshotter, soak.kill_containerd,
        soak.upgrade_service, soak.restart_snapshotter,
    ]  # fmt: skip
    for _ in range(CYCLES):
        for event in cycle:
            soak.happens(event)
            assert [path.read_text() for path in soak.out.glob("*.errors") if path.stat().st_size] == []
    numbers = [found for path in soak.mountpoints() if (found := soak.service.listed(path).numbers) is not None]
    counts = [soak.count(name) for name in soak.names]
    soak.end()
    assert [path.read_text() for path in soak.out.glob("*.errors")] == [""] * CONTAINERS
    wait_for(lambda: soak.mountpoints() == [])
    assert sum(each.restarts for each in numbers) >= WORKERS * CYCLES
    assert sum(sum(each.errors.values()) for each in numbers) == 0
    reads, size = sum(each.reads for each in numbers), sum(each.read_bytes for each in numbers)
    print(f"{soak.events} events, {sum(counts)} rounds of the readers, {reads} reads and {size} bytes by the kernel")
