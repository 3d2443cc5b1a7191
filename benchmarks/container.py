"""How long does it take from an image to the first line that a container of it prints?

Side by side: `ocifs run` of an indexed image by each kind of rootfs; `umoci unpack` and `runc run`; and `podman run` of
an image that it has pulled and unpacked before, where podman is installed: as it comes, with its own network, and
without one, as the others are. The clock stops at the first line; what comes after is waited for but not counted.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.timing import Measure, arguments, ocifs, report, side_by_side

_COMMAND = ["/bin/echo", "hello"]


def first_line(command: list[str]) -> float:
    """Return the seconds until a command has printed a line; let it end."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        taken = time.perf_counter() - began
    assert line == b"hello\n", line
    return taken


def unpack_and_run(image: str, directory: Path) -> float:
    """Return the seconds that `umoci unpack` and `runc run` take to the first line."""
    bundle = directory / "unpacked"
    began = time.perf_counter()
    subprocess.run(["umoci", "unpack", "--image", image, bundle], check=True, stderr=subprocess.DEVNULL)
    config = json.loads((bundle / "config.json").read_bytes())
    config["process"] |= {"args": _COMMAND, "terminal": False}
    (bundle / "config.json").write_text(json.dumps(config))
    unpacked = time.perf_counter() - began
    try:
        return unpacked + first_line(["runc", "run", "--bundle", str(bundle), f"benchmark-{os.getpid()}"])
    finally:
        shutil.rmtree(bundle)


def podman(directory: Path, image: str) -> dict[str, list[str]]:
    """Pull the image into a storage of its own; return the commands that run it: none where podman does not."""
    if shutil.which("podman") is None:
        return {}
    link = directory / "image"  # podman takes no path with capitals or a leading dot
    link.symlink_to(Path(image.rpartition(":")[0]).resolve())
    storage = ["--root", f"{directory}/storage", "--runroot", f"{directory}/podman", "--events-backend", "file"]
    command = ["podman", *storage, "--runtime", "runc", "--cgroup-manager", "cgroupfs"]
    pulled = subprocess.run(
        [*command, "pull", "--quiet", f"oci:{link}:{image.rpartition(':')[2]}"],
        capture_output=True,
        text=True,
        check=False,
    )
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
    what = ["--entrypoint", _COMMAND[0], pulled.stdout.strip(), *_COMMAND[1:]]
    runs = {
        "podman run, pulled before": [*command, "run", "--rm", *limits, *what],
        "podman run --network none": [*command, "run", "--rm", "--network", "none", *limits, *what],
    }
    return {
        name: run for name, run in runs.items() if subprocess.run(run, capture_output=True, check=False).returncode == 0
    }


def main() -> None:
    """Measure and print."""
    options = arguments()
    image = f"{options.image}:{options.tag}"
    subprocess.run(ocifs("index", image), check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory(prefix="benchmark") as name:
        directory = Path(name)
        ways: dict[str, Measure] = {
            f"ocifs run --rootfs {rootfs}": partial(
                first_line, ocifs("run", "--rootfs", rootfs, image, "--", *_COMMAND)
            )
            for rootfs in ("mount", "overlay", "tmpfs")
        }
        ways |= {name: partial(first_line, run) for name, run in podman(directory, image).items()}
        ways["umoci unpack, runc run"] = partial(unpack_and_run, image, directory)
        # podman leaves its storage mounted upon itself
        subprocess.run(["umount", "--lazy", directory / "storage/overlay"], check=False, stderr=subprocess.DEVNULL)
        report("the first line of a container", side_by_side(ways, options.rounds), "ocifs run --rootfs mount")


if __name__ == "__main__":
    main()
