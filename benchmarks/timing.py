"""Measure side by side: each alternative in turn, round by round, so that the machine's load affects all alike."""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

EROFS = "ocifs, erofs engine"
FUSE = "ocifs, fuse engine"
EXTRACTED = "extracted on ext4"

Measure = Callable[[], float]
"""Does the work once; returns seconds, or another figure."""


def drop_caches() -> None:
    """Make the kernel forget pages, names and inodes (root only)."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def seconds(command: list[str], **environment: str) -> float:
    """Run a command to its end and discard its output; return its seconds."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | environment)
    return time.perf_counter() - began


def cold(command: list[str]) -> float:
    """Return the seconds of a command with cold kernel caches."""
    drop_caches()
    return seconds(command)


def side_by_side(ways: Mapping[str, Measure], rounds: int) -> dict[str, list[float]]:
    """Return the measurements of each alternative, taken in turn."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, measure in ways.items():
            taken[name].append(measure())
    return taken


def report(question: str, taken: Mapping[str, list[float]], reference: str, unit: str = "s") -> None:
    """Print medians, spread and the ratio to `reference`, round by round, as a table; as JSON with --json."""
    rows = []
    for name, values in taken.items():
        ratios = [value / other for value, other in zip(values, taken[reference], strict=True)]
        rows.append(
            {
                "way": name,
                "unit": unit,
                "min": min(values),
                "median": statistics.median(values),
                "max": max(values),
                "ratio": statistics.median(ratios),
            }
        )
    if "--json" in sys.argv:
        about = (sys.modules["__main__"].__doc__ or "").partition("\n\n")[2].strip().replace("\n", " ")
        kernel = platform.release().partition("-")[0]
        table = {
            "question": question,
            "reference": reference,
            "rows": rows,
            "about": about,
            "machine": f"{os.cpu_count()} processors, Linux {kernel}, Python {platform.python_version()}",
            "rounds": max(map(len, taken.values())),
        }
        print(json.dumps(table), flush=True)
        return
    print(f"\n{question} (ratios to {reference})")
    for row in rows:
        print(
            f"  {row['way']:34} {row['median']:8.3f} {unit}  [{row['min']:.3f}, {row['max']:.3f}]  x {row['ratio']:.2f}"
        )


def arguments(*texts: str, **numbers: int) -> argparse.Namespace:
    """Return the options of every benchmark, and those of this one: texts, and numbers with their defaults."""
    parser = argparse.ArgumentParser()
    for name in texts:
        parser.add_argument(f"--{name}")
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    default = os.environ.get("OCIFS_DEBIAN_IMAGE", str(Path.home() / ".cache/ocifs-tests/debian"))
    parser.add_argument("--image", default=default, help="image built by scripts/make-debian-image")
    parser.add_argument("--tag", default="tools")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--without", action="append", default=[], metavar="TOOL", help="leave a peer out")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def ocifs(*command: str) -> list[str]:
    """Return an ocifs command line."""
    return [str(Path(sys.executable).with_name("ocifs")), *command]


@contextmanager
def mounted(mount: list[str], mountpoint: Path) -> Iterator[Path]:
    """Keep a command's mount for the duration of the context."""
    mountpoint.mkdir(parents=True, exist_ok=True)
    subprocess.run(mount, check=True, stdout=subprocess.DEVNULL)
    try:
        yield mountpoint
    finally:
        subprocess.run(["umount", str(mountpoint)], check=True)


@contextmanager
def trees_of(options: argparse.Namespace) -> Iterator[dict[str, Path]]:
    """Provide the image in every alternative at once: yield a map from alternative to directory.

    Leave out peers that are excluded or not installed, and say so on stderr.
    """
    extracted = Path(options.image, f"bundle-{options.tag}", "rootfs")
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        work = Path(directory)
        trees: dict[str, Path] = {}
        for name, mount in _mounts(options, extracted, work).items():
            if name in options.without or shutil.which(mount[0]) is None:
                print(f"left out, excluded or not installed: {name}", file=sys.stderr)
                continue
            mountpoint = work / f"mount-{len(trees)}"
            trees[name] = stack.enter_context(mounted([*mount, str(mountpoint)], mountpoint))
        yield trees | {EXTRACTED: extracted}


def _mounts(options: argparse.Namespace, extracted: Path, work: Path) -> dict[str, list[str]]:
    """Return the mount command of each alternative, without its mountpoint."""
    for name in ("upper", "work", "ratarmount-indexes"):
        (work / name).mkdir()
    image = f"{options.image}:{options.tag}"
    layers = [str(path) for path in layer_blobs(options)]
    squashed = work / "image.squashfs"
    if shutil.which("mksquashfs"):
        squash = ["mksquashfs", str(extracted), str(squashed), "-quiet", "-no-progress", "-comp", "zstd"]
        subprocess.run([*squash, "-Xcompression-level", "3"], check=True, stdout=subprocess.DEVNULL)
    return {
        EROFS: ocifs("mount", "--engine", "erofs", image),
        FUSE: ocifs("mount", "--engine", "fuse", image),
        "fuse-overlayfs": [
            "fuse-overlayfs", "-o", f"lowerdir={extracted},upperdir={work}/upper,workdir={work}/work",
        ],
        "squashfuse": ["squashfuse", str(squashed)],
        "ratarmount": ["ratarmount", "--index-folders", f"{work}/ratarmount-indexes", *layers],
    }  # fmt: skip


def resident(pid: int) -> float:
    """Return the resident memory (RSS) of a process in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def daemon_of(mountpoint: Path) -> int:
    """Return the process that serves a mount: ocifs' daemon, or the process with the mountpoint among its arguments."""
    listed = json.loads(subprocess.run(ocifs("mounts", "--json"), check=True, capture_output=True).stdout)
    for mount in listed:
        if mount["mountpoint"] == str(mountpoint):
            return int(mount["pid"])
    (pid, *_) = subprocess.run(["pgrep", "-f", str(mountpoint)], check=True, capture_output=True).stdout.split()
    return int(pid)


def layer_blobs(options: argparse.Namespace) -> list[Path]:
    """Return the blobs of the image's layers, the base first."""
    shown = subprocess.run(
        ocifs("index", "--json", f"{options.image}:{options.tag}"), check=True, capture_output=True, text=True
    ).stdout
    digests = [layer["digest"].partition(":")[2] for layer in json.loads(shown)["layers"]]
    return [Path(options.image, "blobs/sha256", digest) for digest in digests]
