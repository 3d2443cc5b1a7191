"""How long does it take from an image to the first output line of a container, or until a library is imported?

Side by side: `ocifs run` of an indexed image with each kind of rootfs; `umoci unpack` and `runc run`; and, if podman is
installed, `podman run` of an image that it has already pulled and unpacked: by default with its own network, and once
without one, like the other tools. The clock stops at the first line; the benchmark waits for the rest but does not
count it. For imports the kernel's caches are dropped first, and an already unpacked image is measured as well, as the
limit.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.images import image
from benchmarks.timing import Measure, arguments, drop_caches, ocifs, report, side_by_side

_ECHO = ["/bin/echo", "hello"]
_OCIFS = "ocifs run --rootfs mount"
_EXTRACTED = "runc run, unpacked before"


def first_line(command: list[str]) -> float:
    """Return the seconds until a command prints a line; wait until it ends."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        taken = time.perf_counter() - began
    assert line == b"hello\n", line
    return taken


def cold_first_line(command: list[str]) -> float:
    """Measure `first_line` with cold caches."""
    drop_caches()
    return first_line(command)


def unpack(reference: str, bundle: Path, command: list[str]) -> list[str]:
    """Create a bundle with `umoci unpack`; return the command that runs `command` in it."""
    subprocess.run(["umoci", "unpack", "--image", reference, bundle], check=True, stderr=subprocess.DEVNULL)
    config = json.loads((bundle / "config.json").read_bytes())
    config["process"] |= {"args": command, "terminal": False}
    (bundle / "config.json").write_text(json.dumps(config))
    return ["runc", "run", "--bundle", str(bundle), f"benchmark-{os.getpid()}"]


def unpack_and_run(reference: str, directory: Path, command: list[str]) -> float:
    """Return the seconds until the first line with `umoci unpack` and `runc run`."""
    bundle = directory / "unpacked"
    began = time.perf_counter()
    run = unpack(reference, bundle, command)
    unpacked = time.perf_counter() - began
    try:
        return unpacked + first_line(run)
    finally:
        shutil.rmtree(bundle)


class Podman:
    """podman with its own storage, into which it pulls an image."""

    def __init__(self, directory: Path, reference: str) -> None:
        link = directory / "image"  # podman accepts no path with capitals or a leading dot
        link.symlink_to(Path(reference.rpartition(":")[0]).resolve())
        self._storage = directory / "storage"
        storage = ["--root", str(self._storage), "--runroot", f"{directory}/podman", "--events-backend", "file"]
        self.command = ["podman", *storage, "--runtime", "runc", "--cgroup-manager", "cgroupfs"]
        self.image = self.run("pull", "--quiet", f"oci:{link}:{reference.rpartition(':')[2]}").strip()

    def run(self, *arguments: str) -> str:
        """Return the output of a podman command."""
        ran = subprocess.run([*self.command, *arguments], check=True, stdout=subprocess.PIPE, text=True)
        return ran.stdout

    def close(self) -> None:
        """Unmount the storage, which podman leaves mounted on itself."""
        subprocess.run(["umount", "--lazy", self._storage / "overlay"], check=False, stderr=subprocess.DEVNULL)


def podman_runs(podman: Podman, command: list[str]) -> dict[str, list[str]]:
    """Return the podman alternatives that work on this machine."""
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
    what = [*limits, "--entrypoint", command[0], podman.image, *command[1:]]
    runs = {
        "podman run, pulled before": [*podman.command, "run", "--rm", *what],
        "podman run --network none": [*podman.command, "run", "--rm", "--network", "none", *what],
    }
    works = {name: subprocess.run(run, capture_output=True, check=False).returncode == 0 for name, run in runs.items()}
    return {name: run for name, run in runs.items() if works[name]}


def first_lines(reference: str, directory: Path, rounds: int) -> None:
    """Measure and print the time of `echo`."""
    podman = Podman(directory, reference) if shutil.which("podman") else None
    ways: dict[str, Measure] = {
        f"ocifs run --rootfs {rootfs}": partial(
            first_line, ocifs("run", "--entrypoint", "", "--rootfs", rootfs, reference, *_ECHO)
        )
        for rootfs in ("mount", "overlay", "tmpfs")
    }
    if podman:
        ways |= {name: partial(first_line, run) for name, run in podman_runs(podman, _ECHO).items()}
    ways["umoci unpack, runc run"] = partial(unpack_and_run, reference, directory, _ECHO)
    report("the first line of a container", side_by_side(ways, rounds), _OCIFS)
    if podman:
        podman.close()


def imports(module: str, reference: str, directory: Path, rounds: int) -> None:
    """Measure and print the time that Python takes to import a module."""
    command = ["/usr/bin/python3", "-c", f"import {module}; print('hello')"]
    podman = Podman(directory, reference) if shutil.which("podman") else None
    ways: dict[str, Measure] = {
        _OCIFS: partial(cold_first_line, ocifs("run", "--entrypoint", "", "--rootfs", "mount", reference, *command)),
        _EXTRACTED: partial(cold_first_line, unpack(reference, directory / "extracted", command)),
    }
    if podman:
        ways |= {name: partial(cold_first_line, run) for name, run in podman_runs(podman, command).items()}
    report(f"import {module} in a container, nothing cached", side_by_side(ways, rounds), _EXTRACTED)
    if podman:
        podman.close()


def main() -> None:
    """Measure and print."""
    options = arguments()
    debian, scientific = f"{options.image}:{options.tag}", f"{image('scientific', options)}:latest"
    for reference in (debian, scientific):
        subprocess.run(ocifs("index", reference), check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory(prefix="benchmark") as name:
        first_lines(debian, Path(name), options.rounds)
    for module, reference in (("numpy", debian), ("scipy.stats", scientific)):
        with tempfile.TemporaryDirectory(prefix="benchmark") as name:
            imports(module, reference, Path(name), options.rounds)


if __name__ == "__main__":
    main()
