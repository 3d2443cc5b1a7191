"""How much does an unknown image in a registry cost over a slow link?

A docker-registry on loopback, behind a link of 100 Mbit/s and 20 ms. Side by side: the first line of a container with
`ocifs run` and a published index, and with `podman run`, which has to pull; and a complete, verified image without a
published index, with `ocifs index`, and with `skopeo copy` to a directory, which does not look into the layers. As
root, with docker-registry, skopeo and podman installed.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.container import first_line
from benchmarks.link import Link, Traffic, slow_link
from benchmarks.timing import Measure, arguments, ocifs, report, seconds, side_by_side
from tests.cli.docker_registry import docker_registry, push

_RATE = 100e6 / 8
_ROUND_TRIP = 0.02
COMMAND = ["-c", "import json; print('hello', flush=True)"]
_PYTHON = "/usr/bin/python3"
_OCIFS, _OCIFS_WHOLE = "ocifs run, index published", "ocifs index, no index known"
_PODMAN, _SKOPEO = "podman run, not pulled before", "skopeo copy to a directory"


def ocifs_run(image: str, cache: Path, link: Link, fetched: list[Traffic]) -> float:
    """Return the seconds to the first line; record the bytes and requests until then."""
    shutil.rmtree(cache, ignore_errors=True)
    before = link.traffic()
    command = ocifs("run", "--cache-dir", str(cache), "--no-prefetch", "--entrypoint", "", image, _PYTHON, *COMMAND)
    taken = first_line(command)
    fetched.append(link.traffic(before))
    return taken


def report_traffic(fetched: Mapping[str, Sequence[Traffic]], whole: int, of: str, reference: str) -> None:
    """Print the bytes of several ways in per cent of `whole`, and the requests."""
    shares = {way: [each.received / whole * 100 for each in starts] for way, starts in fetched.items()}
    report(f"bytes fetched by then, relative to {of}", shares, reference, "%")
    requests = {way: [float(each.requests) for each in starts] for way, starts in fetched.items()}
    report("requests by then", requests, reference, "")


def podman_run(image: str, storage: Path) -> float:
    """Return the seconds to the first line."""
    podman = ["podman", "--root", f"{storage}/storage", "--runroot", f"{storage}/run", "--events-backend", "file"]
    subprocess.run([*podman, "rmi", "--all", "--force"], check=True, capture_output=True)
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
    what = ["--network", "none", *limits, "--tls-verify=false", "--quiet", "--entrypoint", _PYTHON, image, *COMMAND]
    return first_line([*podman, "--runtime", "runc", "--cgroup-manager", "cgroupfs", "run", "--rm", *what])


def index_all(image: str, cache: Path) -> float:
    """Return the seconds until all layers are fetched, indexed, verified and merged."""
    shutil.rmtree(cache, ignore_errors=True)
    return seconds(ocifs("index", "--cache-dir", str(cache), image))


def copy_all(image: str, directory: Path) -> float:
    """Return the seconds until all blobs are fetched."""
    shutil.rmtree(directory, ignore_errors=True)
    return seconds(["skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", image, f"dir:{directory}"])


def main() -> None:
    """Measure and print."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="benchmark") as name:
        work = Path(name)
        with docker_registry(work) as host:
            push(f"oci:{options.image}:{options.tag}", host, "debian:latest")
            subprocess.run(ocifs("index", "push", f"docker://{host}/debian"), check=True, stdout=subprocess.DEVNULL)
            with slow_link(int(host.rpartition(":")[2]), rate=_RATE, round_trip=_ROUND_TRIP) as link:
                image = f"127.0.0.1:{link.port}/debian:latest"
                ways: dict[str, Measure] = {
                    _OCIFS_WHOLE: partial(index_all, f"docker://{image}", work / "cache"),
                    _SKOPEO: partial(copy_all, f"docker://{image}", work / "copy"),
                }
                report("an image that is fetched and verified", side_by_side(ways, options.rounds), _SKOPEO)
                before = link.received
                copy_all(f"docker://{image}", work / "copy")
                whole = link.received - before
                fetched: list[Traffic] = []
                ways = {_OCIFS: partial(ocifs_run, f"docker://{image}", work / "cache", link, fetched)}
                if shutil.which("podman"):
                    ways[_PODMAN] = partial(podman_run, image, work)
                report("the first line of a container", side_by_side(ways, options.rounds), _OCIFS)
                report_traffic({_OCIFS: fetched}, whole, "a copy", _OCIFS)
        subprocess.run(["umount", "--lazy", work / "storage/overlay"], check=False, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
