"""What do mounts by the service cost, compared with a daemon for each mount?

Side by side, with the erofs engine: the time of a warm `ocifs mount`; the time of its last step alone, from the job to
a mount that responds; and the proportional memory of each idle mount, at 1, 10, 50 and 200 mounts of one image, the
keeper included.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

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

_COUNTS = (1, 10, 50, 200)
_DAEMON, _SERVICE = "ocifs, a daemon for each mount", "ocifs service"


@contextmanager
def service() -> Iterator[None]:
    """Run a service."""
    subprocess.run(ocifs("service"), check=True)
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


def memory(image: str, directory: Path, count: int, *options: str) -> float:
    """Return the proportional memory of an idle mount in MiB, of `count` mounts, with a share of their keeper."""
    mountpoints = [directory / f"{number}" for number in range(count)]
    with ExitStack() as stack:
        for mountpoint in mountpoints:
            mountpoint.mkdir(exist_ok=True)
            subprocess.run(ocifs("mount", "--engine", "erofs", *options, image, str(mountpoint)), check=True)
            stack.callback(subprocess.run, ["umount", str(mountpoint)], check=True)
        shown = subprocess.run(ocifs("mounts", "--json"), check=True, capture_output=True).stdout
        listed = [each for each in json.loads(shown) if Path(each["mountpoint"]) in mountpoints]
        assert len(listed) == count
        pids = {each["pid"] for each in listed} | {each["kept"]["keeper"] for each in listed if each["kept"]}
        return sum(map(_proportional, pids)) / count


def _proportional(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def main() -> None:
    """Measure and print."""
    options = arguments()
    image = f"{options.image}:{options.tag}"
    subprocess.run(ocifs("index", image), check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as made:
        mountpoint = Path(made, "mnt")
        mountpoint.mkdir()
        opened = open_image(image, Options(store=Store(default_directory())))
        with opened, service():
            ways: dict[str, Callable[[], float]] = {
                _DAEMON: partial(command, image, mountpoint, "--no-service"),
                _SERVICE: partial(command, image, mountpoint),
                "nothing but Python": partial(seconds, [sys.executable, "-c", "pass"]),
            }
            report("a warm ocifs mount", side_by_side(ways, options.rounds), _DAEMON)
            job = Job.of(opened, str(mountpoint), MountOptions(engine="erofs", log=os.devnull))
            steps: dict[str, Callable[[], float]] = {
                _DAEMON: partial(step, job, by_service=False),
                _SERVICE: partial(step, job, by_service=True),
            }
            report("the mount step alone", side_by_side(steps, options.rounds), _DAEMON)
        for count in _COUNTS:
            taken = {_DAEMON: [memory(image, Path(made), count, "--no-service")]}
            with service():
                taken[_SERVICE] = [memory(image, Path(made), count)]
            report(f"memory of an idle mount, of {count}", taken, _DAEMON, "MiB")


if __name__ == "__main__":
    main()
