"""How long does a start take after the first one, and the first one from a registry that has a hot pack?

Locally, side by side with cold kernel caches: `chroot DIRECTORY COMMAND` on the extracted image, and on a new mount of
each engine, with the hot pack of an earlier start and without one (`--hot-pack 0`). Mounting is not counted. From a
docker-registry behind a link of 100 Mbit/s and 20 ms: the first line of a container with `ocifs run`, a published index
and a hot pack; the same without the pack; an eStargz copy of the image, if ctr-remote is installed; and `podman run`,
which has to pull.
"""

import os
import shutil
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.images import image
from benchmarks.link import Traffic, slow_link
from benchmarks.publish import mounted, publish
from benchmarks.registry import COMMAND, ocifs_run, podman_run, report_traffic
from benchmarks.snapshotter import convert
from benchmarks.timing import EXTRACTED, Measure, arguments, drop_caches, ocifs, report, side_by_side
from tests.cli.docker_registry import docker_registry, push

_PYTHON = "/usr/bin/python3"
_SMALL_FILES = "find /usr/lib/python3* /usr/share/perl -type f -size -16k | head -n 800 | xargs cat"
WORKLOADS = {
    "import numpy": ("debian", [_PYTHON, "-c", "import numpy"]),
    "import scipy.stats": ("scientific", [_PYTHON, "-c", "import scipy.stats"]),
    "npm --version": ("node", ["/usr/bin/node", "/usr/bin/npm", "--version"]),
    "800 small files": ("debian", ["/bin/sh", "-c", _SMALL_FILES]),
}
_RATE, _ROUND_TRIP = 100e6 / 8, 0.02
_PACK, _NO_PACK = "ocifs run, index and pack published", "ocifs run, index published"
_PODMAN, _ESTARGZ = "podman run, not pulled before", "ocifs run, eStargz"
_PAUSE = 2.5
"""Seconds after which a mount has saved its first reads, on an idle machine."""


def start(root: Path, command: list[str]) -> float:
    """Return the seconds of a command in a directory, with cold caches."""
    drop_caches()
    began = time.perf_counter()
    subprocess.run(["chroot", root, *command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def start_on_mount(reference: str, work: Path, command: list[str], *options: str) -> float:
    """Return the seconds of a command on a new mount."""
    with mounted(reference, work / "mnt", work / "cache", *options):
        return start(work / "mnt", command)


def local(name: str, reference: str, command: list[str], work: Path, rounds: int) -> None:
    """Measure and print the later starts of one workload."""
    extracted = work / "extracted"
    subprocess.run(
        ocifs("export", "--cache-dir", str(work / "cache"), reference, "--to-dir", str(extracted)), check=True
    )
    for engine in ("erofs", "fuse"):  # record; each engine reads ahead in its own way
        with mounted(reference, work / "mnt", work / "cache", "--engine", engine):
            start(work / "mnt", command)
            time.sleep(_PAUSE)
        time.sleep(_PAUSE)
    ways: dict[str, Measure] = {EXTRACTED: partial(start, extracted, command)}
    for engine in ("erofs", "fuse"):
        on = partial(start_on_mount, reference, work, command, "--engine", engine)
        ways[f"ocifs, {engine} engine, hot pack"] = on
        ways[f"ocifs, {engine} engine, without"] = partial(on, "--hot-pack", "0")
    report(f"{name}, not the first time, nothing cached by the kernel", side_by_side(ways, rounds), EXTRACTED)


def from_registry(reference: str, rounds: int, work: Path) -> None:
    """Measure and print the first start of an unknown image."""
    with docker_registry(work) as host:
        for name in ("hot", "cold"):
            push(f"oci:{reference}", host, f"{name}:latest")
        subprocess.run(ocifs("index", "push", f"docker://{host}/cold"), check=True, stdout=subprocess.DEVNULL)
        publish(f"docker://{host}/hot", work, [_PYTHON, *COMMAND])
        has_estargz = shutil.which("ctr-remote") is not None
        if has_estargz:
            convert(host, f"oci:{reference}", work)
        with slow_link(int(host.rpartition(":")[2]), rate=_RATE, round_trip=_ROUND_TRIP) as link:
            fetched: dict[str, list[Traffic]] = {_PACK: [], _NO_PACK: []}
            if has_estargz:
                fetched[_ESTARGZ] = []
            names = {_PACK: "hot", _NO_PACK: "cold", _ESTARGZ: "estargz"}
            ways: dict[str, Measure] = {
                way: partial(
                    ocifs_run, f"docker://127.0.0.1:{link.port}/{names[way]}:latest", work / "cache", link, starts
                )
                for way, starts in fetched.items()
            }
            if shutil.which("podman"):
                ways[_PODMAN] = partial(podman_run, f"127.0.0.1:{link.port}/hot:latest", work)
            taken = side_by_side(ways, rounds)
            report("the first line of a container from a registry", taken, _PACK)
            whole = sum(path.stat().st_size for path in Path(reference.rpartition(":")[0], "blobs/sha256").iterdir())
            report_traffic(fetched, whole, "all blobs", _PACK)
    subprocess.run(["umount", "--lazy", work / "storage/overlay"], check=False, stderr=subprocess.DEVNULL)


def main() -> None:
    """Measure and print."""
    options = arguments()
    os.environ["OCIFS_NO_SERVICE"] = "1"
    for name, (kind, command) in WORKLOADS.items():
        if kind in options.without:
            continue
        reference = f"{options.image}:{options.tag}" if kind == "debian" else f"{image(kind, options)}:latest"
        with tempfile.TemporaryDirectory(prefix="benchmark") as directory:
            local(name, reference, command, Path(directory), options.rounds)
    with tempfile.TemporaryDirectory(prefix="benchmark") as directory:
        from_registry(f"{options.image}:{options.tag}", options.rounds, Path(directory))


if __name__ == "__main__":
    main()
