"""Measuring side by side: each way in turn, again and again, so that a machine's moods hit them all alike."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

Measure = Callable[[], float]
"""Does the work once; returns seconds, or whatever else is measured."""


def drop_caches() -> None:
    """Make the kernel forget pages, names and inodes (root only)."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def seconds(command: list[str], **environment: str) -> float:
    """Run a command to its end with its output thrown away; return how long it took."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | environment)
    return time.perf_counter() - began


def cold(command: list[str]) -> float:
    """Return the seconds a command takes when the kernel has nothing cached."""
    drop_caches()
    return seconds(command)


def side_by_side(ways: Mapping[str, Measure], rounds: int) -> dict[str, list[float]]:
    """Return the measures of each way, taken in turn."""
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
        print(json.dumps({"question": question, "reference": reference, "rows": rows}))
        return
    print(f"\n{question} (ratios to {reference})")
    for row in rows:
        print(
            f"  {row['way']:34} {row['median']:8.3f} {unit}  [{row['min']:.3f}, {row['max']:.3f}]  x {row['ratio']:.2f}"
        )


def arguments() -> argparse.Namespace:
    """Return the options that every benchmark takes."""
    parser = argparse.ArgumentParser()
    default = os.environ.get("OCIFS_DEBIAN_IMAGE", str(Path.home() / ".cache/ocifs-tests/debian"))
    parser.add_argument("--image", default=default, help="what scripts/make-debian-image made")
    parser.add_argument("--tag", default="tools")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def ocifs(*command: str) -> list[str]:
    """Return a command line of ocifs."""
    return [str(Path(sys.executable).with_name("ocifs")), *command]


@contextmanager
def mounted(mount: list[str], mountpoint: Path) -> Iterator[Path]:
    """Have something mounted."""
    mountpoint.mkdir(parents=True, exist_ok=True)
    subprocess.run(mount, check=True)
    try:
        yield mountpoint
    finally:
        subprocess.run(["umount", str(mountpoint)], check=True)


@contextmanager
def trees_of(options: argparse.Namespace) -> Iterator[dict[str, Path]]:
    """Have the image at hand in every way that is compared, all at once: way to directory."""
    extracted = Path(options.image, f"bundle-{options.tag}", "rootfs")
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        work = Path(directory)
        for name in ("upper", "work"):
            (work / name).mkdir()
        overlay = ["fuse-overlayfs", "-o", f"lowerdir={extracted},upperdir={work}/upper,workdir={work}/work"]
        image = f"{options.image}:{options.tag}"
        yield {
            "ocifs, fuse engine": stack.enter_context(mounted(ocifs("mount", image, f"{work}/ocifs"), work / "ocifs")),
            "fuse-overlayfs": stack.enter_context(mounted([*overlay, f"{work}/overlay"], work / "overlay")),
            "extracted": extracted,
        }
