"""How long does a container take on a containerd node that has never seen its image?

From nothing to the first line of a Python program, pull included. Side by side: containerd's overlayfs snapshotter;
stargz-snapshotter with the image converted to eStargz, and with one of a single layer that ctr-remote optimized for
this start; ocifs with a published index and the hot pack of a start, with an index alone, with the same eStargz images,
and without an index. Each measurement has a new containerd and a new snapshotter, whose start is not counted. The
registry is docker-registry, once behind a link of 100 Mbit/s and 20 ms, and once on loopback. Then the memory for 30
Pods of 10 images that share all layers but one. As root, with docker-registry, skopeo, ctr-remote, Go and
golang-github-containerd-stargz-snapshotter-dev.
"""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.derived import derive
from benchmarks.link import Link, slow_link
from benchmarks.publish import publish
from benchmarks.timing import Measure, arguments, ocifs, report, side_by_side
from tests.cli.docker_registry import docker_registry, push

_RATE = 100e6 / 8
_ROUND_TRIP = 0.02
_PYTHON = ["/usr/bin/python3", "-c", "print('hello', flush=True)"]
_OVERLAYFS = "overlayfs"
_STARGZ = "stargz-snapshotter, eStargz"
_OPTIMIZED = "stargz-snapshotter, eStargz of one layer, optimized"
_PACK = "ocifs, index and hot pack published"
_PUBLISHED = "ocifs, index published"
_ESTARGZ = "ocifs, the same eStargz"
_ESTARGZ_OPTIMIZED = "ocifs, the same eStargz of one layer, optimized"
_UNINDEXED = "ocifs, no index"
_PATIENCE = 60.0
_IDLE_SECONDS = 20.0
_QUIET = 0.01
_SETTLED = 600.0
"""The Pods are idle once all processes take less than this share of a processor, or after so many seconds: before, both
snapshotters fetch and verify the rest of the images."""

_CONFIG = """\
version = 2
root = "{work}/root"
state = "{work}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "{work}/containerd.sock"
[proxy_plugins.ocifs]
type = "snapshot"
address = "{work}/ocifs.sock"
[proxy_plugins.stargz]
type = "snapshot"
address = "{work}/stargz.sock"
"""


@dataclass
class Node:
    """A node with a containerd of its own, and one snapshotter."""

    work: Path
    snapshotter: str
    environment: dict[str, str]
    server: "subprocess.Popen[bytes] | None"

    def ctr(self, *command: str, program: str = "ctr") -> list[str]:
        """Return a command line of ctr."""
        return [program, "--address", f"{self.work}/containerd.sock", *command]

    def pull(self, image: str) -> None:
        """Pull an image, lazily if the snapshotter can."""
        remote = self.snapshotter != _OVERLAYFS
        named = ["--snapshotter", self.snapshotter]
        command = ["images", "rpull" if remote else "pull", "--plain-http", *named, image]
        quietly(self.ctr(*command, program="ctr-remote" if remote else "ctr"))

    def run(self, image: str, name: str, *command: str, detach: bool = False) -> list[str]:
        """Return the command that runs a container."""
        how = ["--detach"] if detach else ["--rm"]
        return self.ctr("run", *how, "--snapshotter", self.snapshotter, image, name, *command)

    def processes(self) -> list[int]:
        """Return the processes that serve images."""
        if self.snapshotter == "stargz" and self.server is not None:
            return [self.server.pid]
        return [pid for pid in self._started() if b"ocifs" in _command(pid)]

    def end(self) -> None:
        """End all processes with the environment of the node."""
        for pid in self._started():
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def _started(self) -> Iterator[int]:
        """Yield the processes with the environment of the node: of ocifs, containerd, and the shims of containers."""
        mark = os.fsencode(f"XDG_RUNTIME_DIR={self.work}/run") + b"\0"
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                    yield int(entry.name)


def _command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@contextmanager
def node(snapshotter: str, stargz: Path, parent: Path, *options: str) -> Iterator[Node]:
    """Start containerd and a snapshotter with nothing in them; `options` are those of `ocifs snapshotter`."""
    with tempfile.TemporaryDirectory(dir=parent) as name, ExitStack() as stack:
        work = Path(name)
        (work / "run").mkdir(mode=0o700)
        environment = {**os.environ, "XDG_RUNTIME_DIR": f"{work}/run", "XDG_CACHE_HOME": f"{work}/cache"}
        servers = {
            "ocifs": ocifs("snapshotter", "--root", f"{work}/ocifs", "--address", f"{work}/ocifs.sock", *options),
            "stargz": [str(stargz), f"{work}/stargz.sock", f"{work}/stargz"],
        }
        (work / "config.toml").write_text(_CONFIG.format(work=work))
        stack.callback(_clear, Node(work, snapshotter, environment, None))
        server = None
        if snapshotter in servers:
            server = stack.enter_context(_running(servers[snapshotter], work, environment))
            _wait_for(work / f"{snapshotter}.sock")
        stack.enter_context(_running(["containerd", "--config", f"{work}/config.toml"], work, environment))
        made = Node(work, snapshotter, environment, server)
        deadline = time.monotonic() + _PATIENCE
        while subprocess.run(made.ctr("images", "ls"), check=False, capture_output=True).returncode:
            assert time.monotonic() < deadline, "containerd does not start"
            time.sleep(0.1)
        yield made


@contextmanager
def _running(command: list[str], work: Path, environment: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    with (
        (work / "log").open("ab") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()


def _clear(made: Node) -> None:
    """End the processes that the servers have started, and unmount everything."""
    for entry in Path("/proc").iterdir():
        words = _command(int(entry.name)) if entry.name.isdigit() else b""
        if b"containerd-shim" in words and os.fsencode(made.work) in words:
            with suppress(OSError):
                os.kill(int(entry.name), signal.SIGKILL)
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mountpoint in reversed([each for each in mounts if each.startswith(f"{made.work}/")]):
        subprocess.run(["umount", "-l", mountpoint], check=False)
    made.end()
    time.sleep(0.2)


def first_line(
    snapshotter: str, image: str, stargz: Path, parent: Path, link: Link | None, fetched: list[int], *options: str
) -> float:
    """Return the seconds from nothing to the first line of a container; record the bytes that crossed the link."""
    with node(snapshotter, stargz, parent, *options) as made:
        before = link.received if link else 0
        began = time.perf_counter()
        made.pull(image)
        with subprocess.Popen(made.run(image, "pod", *_PYTHON), stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            taken = time.perf_counter() - began
            fetched.append((link.received if link else 0) - before)
        assert line == b"hello\n", (line, (made.work / "log").read_text()[-2000:])
    return taken


def convert(host: str, layout: str, parent: Path, command: Sequence[str] = ()) -> None:
    """Push the image to `HOST/estargz:latest`, converted by ctr-remote; with a command, to `HOST/optimized:latest`.

    ctr-remote optimizes for a command by running it, and by storing first what it reads. Version 0.12 refuses layers
    that lack the parent directories of their files, as those of Debian packages do, so it gets all layers as one.
    """
    archive = parent / "image.tar"
    source = f"oci-archive:{archive}:example.test/app:1"
    layout = flatten(layout, parent) if command else layout
    quietly(["skopeo", "copy", "--quiet", "--insecure-policy", layout, source])
    with node(_OVERLAYFS, Path(), parent) as made:
        target = f"{host}/{'optimized' if command else 'estargz'}:latest"
        recorded = ["--period", "5", "--entrypoint", json.dumps(command[:1]), "--args", json.dumps(command[1:])]
        how = ["optimize", *recorded] if command else ["convert", "--estargz"]
        for step in (
            ["import", "--no-unpack", "--all-platforms", str(archive)],
            [*how, "--oci", "example.test/app:1", target],
            ["push", "--plain-http", target],
        ):
            quietly(made.ctr("images", *step, program="ctr-remote"))
    archive.unlink()


def flatten(layout: str, parent: Path) -> str:
    """Return an image with the tree of another one in a single layer."""
    tar, image = parent / "layer.tar", parent / "flat"
    quietly(ocifs("export", "--to-tar", str(tar), layout))
    quietly(["umoci", "init", "--layout", str(image)])
    quietly(["umoci", "new", "--image", f"{image}:latest"])
    quietly(["umoci", "raw", "add-layer", "--image", f"{image}:latest", str(tar)])
    tar.unlink()
    return f"oci:{image}:latest"


def build_stargz(parent: Path) -> Path:
    """Return the program that serves the stargz snapshotter."""
    program = parent / "stargz"
    source = Path(__file__).with_name("stargz") / "main.go"
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode"}
    subprocess.run(["go", "build", "-o", program, source], check=True, env=environment)
    return program


def memory(
    snapshotter: str, images: list[str], pods: int, stargz: Path, parent: Path, *options: str
) -> dict[str, float]:
    """Run Pods until they are idle.

    Return the PSS in MiB of the processes that serve them, and their share of a processor when idle.
    """
    with node(snapshotter, stargz, parent, *options) as made:
        for image in images:
            made.pull(image)
        names = [f"{made.work.name}-{number}" for number in range(pods)]
        try:
            for number, name in enumerate(names):
                command = ["/usr/bin/python3", "-c", "import time; time.sleep(1e6)"]
                quietly(made.run(images[number % len(images)], name, *command, detach=True))
            began = time.monotonic()
            used = _IDLE_SECONDS
            while used > _QUIET * _IDLE_SECONDS and time.monotonic() - began < _SETTLED:
                before = _processor_seconds(made.processes())
                time.sleep(_IDLE_SECONDS)
                after = _processor_seconds(made.processes())  # some may have ended, others begun
                used = sum(seconds - before.get(pid, 0) for pid, seconds in after.items())
            pss = sum(map(proportional, made.processes()))
            return {"PSS": pss, "idle": 100 * used / _IDLE_SECONDS}
        finally:
            for name in names:
                subprocess.run(made.ctr("tasks", "delete", "--force", name), check=False, capture_output=True)


def proportional(pid: int) -> float:
    """Return the PSS of a process in MiB; 0 if it has ended."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
    return 0.0


def _processor_seconds(pids: list[int]) -> dict[int, float]:
    taken = {}
    for pid in pids:
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            taken[pid] = sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
    return taken


def quietly(command: list[str]) -> None:
    """Run a command; its output is shown only if it fails."""
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, (command, ran.stderr[-2000:])


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.02)


def ways(host: str, stargz: Path, parent: Path, link: Link | None, fetched: dict[str, list[int]]) -> dict[str, Measure]:
    """Return the alternatives, with images in the registry `host`."""
    made = {
        _OVERLAYFS: (_OVERLAYFS, "debian", ()),
        _STARGZ: ("stargz", "estargz", ()),
        _OPTIMIZED: ("stargz", "optimized", ()),
        _PACK: ("ocifs", "packed", ()),
        _PUBLISHED: ("ocifs", "debian", ()),
        _ESTARGZ: ("ocifs", "estargz", ()),
        _ESTARGZ_OPTIMIZED: ("ocifs", "optimized", ()),
        _UNINDEXED: ("ocifs", "plain", ("--index-up-to", "10GiB")),
    }
    return {
        name: partial(
            first_line,
            snapshotter,
            f"{host}/{image}:latest",
            stargz,
            parent,
            link,
            fetched.setdefault(name, []),
            *options,
        )
        for name, (snapshotter, image, options) in made.items()
    }


def pods_of(options: object, host: str, layouts: dict[str, str], stargz: Path, work: Path) -> None:
    """Measure and print the memory of Pods of several images that share all layers but one."""
    pods, count = options.pods, options.images  # type: ignore[attr-defined] # of `arguments`
    taken: dict[str, dict[str, float]] = {}
    for name, (snapshotter, repository) in {_STARGZ: ("stargz", "estargz"), _PUBLISHED: ("ocifs", "debian")}.items():
        derived = derive(layouts[repository], count, work / f"derived-{snapshotter}")
        images = []
        for number in range(count):
            push(f"oci:{derived}:{number}", host, f"{repository}-derived:{number}")
            images.append(f"{host}/{repository}-derived:{number}")
        if snapshotter == "ocifs":
            quietly(ocifs("index", "push", *(f"docker://{image}" for image in images)))
        taken[name] = memory(snapshotter, images, pods, stargz, work)
    figures = {
        "PSS": ("memory of idle processes", "MiB"),
        "idle": ("processor time when idle", "% of a processor"),
    }
    for figure, (what, unit) in figures.items():
        report(
            f"{what} for {pods} Pods of {count} images",
            {name: [values[figure] or 1e-9] for name, values in taken.items()},
            _STARGZ,
            unit,
        )


def main() -> None:
    """Measure and print."""
    options = arguments(pods=30, images=10)
    with tempfile.TemporaryDirectory(prefix="benchmark", dir="/var/tmp") as name:
        work = Path(name)
        stargz = build_stargz(work)
        (work / "registry").mkdir()
        with docker_registry(work / "registry") as host:
            layout = f"oci:{options.image}:{options.tag}"
            for repository in ("debian", "packed", "plain"):
                push(layout, host, f"{repository}:latest")
            quietly(ocifs("index", "push", f"docker://{host}/debian:latest"))
            publish(f"docker://{host}/packed:latest", work, _PYTHON)
            convert(host, layout, work)
            convert(host, layout, work, _PYTHON)
            with slow_link(int(host.rpartition(":")[2]), rate=_RATE, round_trip=_ROUND_TRIP) as link:
                fetched: dict[str, list[int]] = {}
                over = ways(f"127.0.0.1:{link.port}", stargz, work, link, fetched)
                report("nothing to first line, 100 Mbit/s and 20 ms", side_by_side(over, options.rounds), _STARGZ)
            report(
                "bytes fetched by then",
                {name: [each / 2**20 for each in values] for name, values in fetched.items()},
                _STARGZ,
                "MiB",
            )
            report(
                "nothing to first line, loopback",
                side_by_side(ways(host, stargz, work, None, {}), options.rounds),
                _STARGZ,
            )
            layouts = {"debian": layout, "estargz": f"oci:{work}/estargz:latest"}
            copy = ["skopeo", "copy", "--quiet", "--insecure-policy", "--src-tls-verify=false"]
            quietly([*copy, f"docker://{host}/estargz:latest", layouts["estargz"]])
            pods_of(options, host, layouts, stargz, work)


if __name__ == "__main__":
    main()
