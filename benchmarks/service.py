"""What do commands and mounts cost with the service, compared with a daemon for each mount?

Side by side, with the erofs engine and an indexed image: the time of a warm `ocifs mount`; the time of its last step
alone, from the job to a mount that responds; the time until the first line of a container, and that of `podman run
--network none` of an image that it has unpacked before; and the proportional memory (PSS) of each idle mount,
at 1, 10, 50 and 200 mounts of one image, all processes of the service included, with dormant workers and without. If
Go and ctr-remote are installed, the process of stargz-snapshotter beside them, with as many mounts of the image
converted to eStargz: these share one mount of each layer.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.container import Podman, first_line, podman_runs
from benchmarks.snapshotter import Node, build_stargz, convert, node, proportional, quietly
from benchmarks.timing import arguments, ocifs, report, seconds, side_by_side
from ocifs.image.opening import open_image
from ocifs.mount.job import Job, mount
from ocifs.mount.options import MountOptions
from ocifs.mount.process import Daemon
from ocifs.options import Options
from ocifs.service.client import ServiceConnection
from ocifs.service.connection import connect
from ocifs.service.protocol import send_mount
from ocifs.store import Store, default_directory
from tests.cli.docker_registry import docker_registry

_COUNTS = (1, 10, 50, 200)
_DAEMON, _SERVICE = "ocifs, a daemon for each mount", "ocifs service"
_AWAKE = "ocifs service --idle 0"
_IDLE_SECONDS = 120.0
_STARGZ = "stargz-snapshotter, eStargz"


@contextmanager
def service(*options: str) -> Iterator[None]:
    """Run a service."""
    subprocess.run(ocifs("service", *options), check=True)
    time.sleep(2)  # it loads the modules of the command line
    try:
        yield
    finally:
        subprocess.run(ocifs("service", "stop"), check=True)


def command(image: str, mountpoint: Path, *options: str) -> float:
    """Return the seconds of a warm `ocifs mount`; unmount it."""
    taken = seconds(ocifs("mount", "--engine", "erofs", *options, image, str(mountpoint)))
    subprocess.run(ocifs("umount", str(mountpoint)), check=True)
    return taken


def step(job: Job, *, by_service: bool) -> float:
    """Return the seconds from the job to a mount that responds; unmount it."""
    if by_service:
        connection = connect()
        assert connection is not None
        server = ServiceConnection(connection)
        began = time.perf_counter()
        mount(server, job, send=send_mount)
        taken = time.perf_counter() - began
        server.kill()
    else:
        with Daemon() as daemon:
            time.sleep(1)  # it loads its modules while the command opens the image
            began = time.perf_counter()
            mount(daemon, job)
            taken = time.perf_counter() - began
    subprocess.run(["umount", job.mountpoint], check=True)
    return taken


def memory(image: str, directory: Path, count: int, *options: str, dormant: bool = False) -> float:
    """Return the proportional memory of an idle mount in MiB, of `count` mounts, with a share of their keeper.

    Wait until their workers are `dormant`.
    """
    mountpoints = [directory / f"{number}" for number in range(count)]
    with ExitStack() as stack:
        for mountpoint in mountpoints:
            mountpoint.mkdir(exist_ok=True)
            subprocess.run(ocifs("mount", "--engine", "erofs", *options, image, str(mountpoint)), check=True)
            stack.callback(subprocess.run, ["umount", str(mountpoint)], check=True)
        deadline = time.monotonic() + _IDLE_SECONDS
        while dormant and not all(each["kept"]["dormant"] for each in _listed(mountpoints)):
            assert time.monotonic() < deadline
            time.sleep(1)
        listed = _listed(mountpoints)
        assert len(listed) == count
        keepers = {each["kept"]["keeper"] for each in listed if each["kept"]}
        templates = {child for keeper in keepers for child in _children(keeper)}
        return sum(map(proportional, {each["pid"] for each in listed} | keepers | templates)) / count


def mount_snapshot(made: Node, name: str, mountpoint: Path) -> None:
    """Mount a view of the only image of a node."""
    snapshots = made.ctr("snapshots", "--snapshotter", made.snapshotter)
    listed = subprocess.run([*snapshots, "ls"], check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in listed.splitlines()[1:] if "Committed" in line]
    parents = {row[1] for row in rows}
    (top,) = (row[0] for row in rows if row[0] not in parents)
    quietly([*snapshots, "view", name, top])
    command = subprocess.run([*snapshots, "mounts", mountpoint, name], check=True, capture_output=True, text=True)
    quietly(["sh", "-c", command.stdout])


@contextmanager
def stargz(image: str) -> Iterator[Callable[[int], float]]:
    """Start stargz-snapshotter with an image; yield what returns its memory in MiB for each of a number of mounts."""
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark", dir="/var/tmp")))
        program = build_stargz(work)
        (work / "registry").mkdir()
        host = stack.enter_context(docker_registry(work / "registry"))
        convert(host, f"oci:{image}", work)
        made = stack.enter_context(node("stargz", program, work))
        made.pull(f"{host}/estargz:latest")
        mounted: list[Path] = []

        def unmount() -> None:
            for mountpoint in mounted:
                subprocess.run(["umount", mountpoint], check=True)

        stack.callback(unmount)

        def of(count: int) -> float:
            for number in range(len(mounted), count):
                mountpoint = work / f"{number}"
                mountpoint.mkdir()
                mount_snapshot(made, f"view-{number}", mountpoint)
                mounted.append(mountpoint)
            return sum(map(proportional, made.processes())) / count

        yield of


def _listed(mountpoints: list[Path]) -> list[dict[str, Any]]:
    shown = subprocess.run(ocifs("mounts", "--json"), check=True, capture_output=True).stdout
    here = [each for each in json.loads(shown) if each["state"] == "mounted"]
    return [each for each in here if Path(each["mountpoint"]) in mountpoints]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def start_up(image: str, mountpoint: Path, rounds: int) -> None:
    """Measure and print the time of a mount, and of its last step."""
    ways: dict[str, Callable[[], float]] = {
        _DAEMON: partial(command, image, mountpoint, "--no-service"),
        _SERVICE: partial(command, image, mountpoint),
        "nothing but Python": partial(seconds, [sys.executable, "-c", "pass"]),
    }
    report("a warm ocifs mount", side_by_side(ways, rounds), _DAEMON)
    with open_image(image, Options(store=Store(default_directory()))) as opened:
        job = Job.of(opened, str(mountpoint), MountOptions(engine="erofs", log=os.devnull))
        steps: dict[str, Callable[[], float]] = {
            _DAEMON: partial(step, job, by_service=False),
            _SERVICE: partial(step, job, by_service=True),
        }
        report("the mount step alone", side_by_side(steps, rounds), _DAEMON)


def first_lines(image: str, directory: Path, rounds: int) -> None:
    """Measure and print the time until a container prints a line."""
    echo = ["/bin/echo", "hello"]
    podman = Podman(directory, image) if shutil.which("podman") else None
    runs = {name: run for name, run in (podman_runs(podman, echo) if podman else {}).items() if "none" in name}
    reference = next(iter(runs), _DAEMON)
    runs |= {
        _DAEMON: ocifs("run", "--no-service", "--entrypoint", "", image, *echo),
        _SERVICE: ocifs("run", "--entrypoint", "", image, *echo),
    }
    ways: dict[str, Callable[[], float]] = {name: partial(first_line, run) for name, run in runs.items()}
    report("the first line of a container", side_by_side(ways, rounds), reference)
    if podman:
        podman.close()


def main() -> None:
    """Measure and print."""
    options = arguments(most=_COUNTS[-1])
    image = f"{options.image}:{options.tag}"
    subprocess.run(ocifs("index", image), check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory(prefix="benchmark") as made:
        mountpoint = Path(made, "mnt")
        mountpoint.mkdir()
        with service():
            start_up(image, mountpoint, options.rounds)
            first_lines(image, Path(made), options.rounds)
        with ExitStack() as stack:
            peer = all(map(shutil.which, ("go", "ctr-remote"))) and "stargz" not in options.without
            stargz_memory = stack.enter_context(stargz(image)) if peer else None
            for count in (each for each in _COUNTS if each <= options.most):
                taken = {_DAEMON: [memory(image, Path(made), count, "--no-service")]}
                with service("--idle", "0"):
                    taken[_AWAKE] = [memory(image, Path(made), count)]
                with service():
                    taken[_SERVICE] = [memory(image, Path(made), count, dormant=True)]
                if stargz_memory:
                    taken[_STARGZ] = [stargz_memory(count)]
                report(f"memory of an idle mount, of {count}", taken, _DAEMON, "MiB")


if __name__ == "__main__":
    main()
