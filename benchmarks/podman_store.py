"""How soon does podman run an unknown image of a registry, over a slow link?

A docker-registry on loopback, behind a link of 100 Mbit/s and 20 ms, and an image with a published index, of which
nothing is on this machine. Side by side, the first line of `podman run`: of an image in an ocifs store, with and
without the time of `ocifs store add`; on a mount of ocifs (`--rootfs`); and of a pulled image. stargz-store, which does
the same for eStargz, is not in Debian. As root, with docker-registry, skopeo and podman installed.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.container import first_line
from benchmarks.link import Link, slow_link
from benchmarks.timing import Measure, arguments, ocifs, report, side_by_side
from tests.cli.docker_registry import docker_registry, push

_RATE = 100e6 / 8
_ROUND_TRIP = 0.02
_PYTHON = "/usr/bin/python3"
_COMMAND = ["-c", "import json; print('hello', flush=True)"]
_STORED, _ADDED = "podman run, from an ocifs store", "ocifs store add, podman run"
_ROOTFS, _PULLED = "ocifs mount, podman run --rootfs", "podman pull, podman run"
_STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{work}/root"
runroot = "{work}/runroot"
[storage.options]
additionalimagestores = [{stores}]
"""


class Machine:
    """podman and ocifs with their files below `work`, and an image behind a link."""

    def __init__(self, work: Path, link: Link) -> None:
        self.work = work
        self.link = link
        self.image = f"127.0.0.1:{link.port}/debian:latest"
        self.fetched: dict[str, list[float]] = {}
        self.cache = ["--cache-dir", str(work / "cache"), "--no-prefetch", "--tls-verify=false"]
        self.store = work / "store"

    def podman(self, *arguments: str) -> list[str]:
        """Return a podman command line."""
        stores = f'"{self.store}"' if self.store.exists() else ""
        configuration = self.work / "storage.conf"
        configuration.write_text(_STORAGE.format(work=self.work, stores=stores))
        os.environ["CONTAINERS_STORAGE_CONF"] = str(configuration)
        return ["podman", "--events-backend", "file", "--runtime", "runc", "--cgroup-manager", "cgroupfs", *arguments]

    def run(self, *image: str) -> list[str]:
        """Return the command line of a container."""
        limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
        return self.podman("run", "--rm", "--network", "none", *limits, "--entrypoint", _PYTHON, *image, *_COMMAND)

    @contextmanager
    def clean(self, way: str) -> Iterator[None]:
        """Begin and end without an image, and record the bytes that were fetched."""
        shutil.rmtree(self.work / "cache", ignore_errors=True)
        before = self.link.received
        yield
        self.fetched.setdefault(way, []).append(self.link.received - before)
        if self.store.exists():
            subprocess.run(ocifs("store", "umount", str(self.store)), check=True)
            shutil.rmtree(self.store)
        subprocess.run(self.podman("rmi", "--all", "--force"), check=True, capture_output=True)

    def add(self) -> None:
        """Add the image to a new store."""
        command = ocifs("store", "add", *self.cache, "--no-tar-split", str(self.store), f"docker://{self.image}")
        subprocess.run(command, check=True, capture_output=True)


def from_store(machine: Machine) -> float:
    """Return the seconds to the first line of a container; the image is in the store, but not fetched."""
    with machine.clean(_STORED):
        machine.add()
        return first_line(machine.run(machine.image))


def after_add(machine: Machine) -> float:
    """Return the seconds from nothing to the first line, with `ocifs store add`."""
    with machine.clean(_ADDED):
        return _timed(machine.add) + first_line(machine.run(machine.image))


def on_mount(machine: Machine) -> float:
    """Return the seconds from nothing to the first line, with `ocifs mount`."""
    mountpoint = machine.work / "mount"
    mountpoint.mkdir(exist_ok=True)
    command = ocifs("mount", *machine.cache, f"docker://{machine.image}", str(mountpoint))
    with machine.clean(_ROOTFS):
        try:
            mounting = _timed(partial(subprocess.run, command, check=True))
            return mounting + first_line(machine.run("--rootfs", f"{mountpoint}:O"))
        finally:
            subprocess.run(["umount", "--lazy", mountpoint], check=True)


def after_pull(machine: Machine) -> float:
    """Return the seconds from nothing to the first line, with `podman pull`."""
    command = machine.podman("pull", "--quiet", "--tls-verify=false", machine.image)
    with machine.clean(_PULLED):
        pulling = _timed(partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL))
        return pulling + first_line(machine.run(machine.image))


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="benchmark") as name:
        work = Path(name)
        with docker_registry(work) as host:
            push(f"oci:{options.image}:{options.tag}", host, "debian:latest")
            subprocess.run(ocifs("index", "push", f"docker://{host}/debian"), check=True, stdout=subprocess.DEVNULL)
            with slow_link(int(host.rpartition(":")[2]), rate=_RATE, round_trip=_ROUND_TRIP) as link:
                machine = Machine(work, link)
                ways: dict[str, Measure] = {
                    _STORED: partial(from_store, machine),
                    _ADDED: partial(after_add, machine),
                    _ROOTFS: partial(on_mount, machine),
                    _PULLED: partial(after_pull, machine),
                }
                report("the first line of podman run", side_by_side(ways, options.rounds), _PULLED)
                fetched = {way: [size / 2**20 for size in sizes] for way, sizes in machine.fetched.items()}
                report("fetched by then", fetched, _PULLED, "MiB")
        subprocess.run(["umount", "--lazy", work / "root/overlay"], check=False, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
