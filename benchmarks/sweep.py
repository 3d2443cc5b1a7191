"""Why do the constants have their values: spacing of checkpoints, decoding ahead, readahead, span cache?

Each is varied on its own, with the erofs engine and cold caches. The figure is the time to read the whole Debian image
with `tar`; for the spacing also the size of the indexes, the processor time of the daemon for `tar`, the start of a
program (`import numpy`), and random reads of 4 KiB in a large file.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.images import LARGE_FILES, image
from benchmarks.stored import files_below
from benchmarks.timing import arguments, cold, drop_caches, layer_blobs, ocifs, report, side_by_side
from ocifs.compression import SPACING

_KIB, _MIB = 1 << 10, 1 << 20
_FOREGROUND = """
import importlib, json, sys
for module, name, value in json.loads(sys.argv.pop(1)):
    setattr(importlib.import_module(module), name, value)
from ocifs.cli.main import main
main()
"""
"""Run `ocifs` with changed constants: modules that import them by name are imported afterwards."""

AHEAD = ("ocifs.mount.reading", "_AHEAD")
READ_AHEAD = ("ocifs.mount.bdi", "_KIB")


def changed(constants: list[tuple[str, str, int]], *command: str) -> list[str]:
    """Return an ocifs command line in which some module constants have other values."""
    return [sys.executable, "-c", _FOREGROUND, json.dumps(constants), *command]


def index(reference: str, spacing: int, cache: Path) -> None:
    """Index an image with another spacing, in this process and its children."""
    with tempfile.TemporaryDirectory() as name:
        Path(name, "sitecustomize.py").write_text(f"import ocifs.compression\nocifs.compression.SPACING = {spacing}\n")
        command = ocifs("index", "--cache-dir", str(cache), reference)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": name})


def processor_time(command: list[str], work: Path) -> float:
    """Return the seconds of processor time that a daemon takes for `tar c`."""

    def used() -> float:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    with served(command, work / "mnt") as mountpoint:
        found = subprocess.run(
            ["pgrep", "-f", "--", f"--foreground.*{mountpoint}$"], check=True, capture_output=True, text=True
        )
        process = found.stdout.split()[0]
        before = used()
        cold(["sh", "-c", f"tar c -C {mountpoint} . >/dev/zero"])
        return used() - before


def start(command: list[str], work: Path) -> float:
    """Return the seconds until Python in the image has imported numpy."""
    with served(command, work / "mnt") as mountpoint:
        return cold(["chroot", str(mountpoint), "python3", "-c", "import numpy"])


@contextmanager
def served(command: list[str], mountpoint: Path) -> Iterator[Path]:
    """Run `ocifs mount --foreground` for the duration of the context."""
    mountpoint.mkdir(exist_ok=True)
    with subprocess.Popen([*command, str(mountpoint)], stderr=subprocess.DEVNULL) as process:
        while not os.path.ismount(mountpoint):
            assert process.poll() is None
            time.sleep(0.01)
        try:
            yield mountpoint
        finally:
            subprocess.run(["umount", str(mountpoint)], check=True)


def read_all(command: list[str], work: Path) -> float:
    """Return the seconds that `tar c` of a mount takes."""
    with served(command, work / "mnt") as mountpoint:
        return cold(["sh", "-c", f"tar c -C {mountpoint} . >/dev/zero"])


def at_random(command: list[str], work: Path, count: int = 200) -> float:
    """Return the median of `count` reads, in milliseconds."""
    generator = random.Random(1)
    with served(command, work / "mnt") as mountpoint:
        drop_caches()
        fd = os.open(mountpoint / "data/random", os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        taken = []
        for _ in range(count):
            began = time.perf_counter()
            os.pread(fd, 4096, generator.randrange(LARGE_FILES["data/random"] // 4096) * 4096)
            taken.append(1000 * (time.perf_counter() - began))
        os.close(fd)
    return statistics.median(taken)


def sweep_spacing(options: argparse.Namespace, work: Path) -> None:
    """Measure the effects of the spacing; each value has its own cache."""
    name = f"{options.image}:{options.tag}"
    large = str(image("large", options))
    layers = sum(blob.stat().st_size for blob in layer_blobs(options))
    sizes = (256 * _KIB, 320 * _KIB, 384 * _KIB, 512 * _KIB, _MIB, 2 * _MIB)
    caches = {size: work / f"cache-{size}" for size in sizes}
    shares = {}
    for size, cache in caches.items():
        index(name, size, cache)
        shares[_shown(size)] = [100 * files_below(cache) / layers]
        index(large, size, cache)

    def mount(cache: Path, what: str) -> list[str]:
        return ocifs("mount", "--foreground", "--engine", "erofs", "--cache-dir", str(cache), what)

    reference = _shown(SPACING)
    report("spacing of checkpoints: size of the indexes, as a share of the layers", shares, reference, "%")
    trees = {_shown(size): partial(read_all, mount(cache, name), work) for size, cache in caches.items()}
    report("spacing of checkpoints: tar c of everything", side_by_side(trees, options.rounds), reference)
    times = {_shown(size): partial(processor_time, mount(cache, name), work) for size, cache in caches.items()}
    report("spacing of checkpoints: processor time for tar c", side_by_side(times, options.rounds), reference)
    starts = {_shown(size): partial(start, mount(cache, name), work) for size, cache in caches.items()}
    report("spacing of checkpoints: import numpy", side_by_side(starts, options.rounds), reference)
    reads = {_shown(size): partial(at_random, mount(cache, large), work) for size, cache in caches.items()}
    report("spacing of checkpoints: 4 KiB at random", side_by_side(reads, options.rounds), reference, "ms")


def sweep_constant(
    what: str, constant: tuple[str, str], values: Mapping[str, int], reference: str, options: argparse.Namespace
) -> None:
    """Measure the effect of a constant of the daemon."""
    mount = ("mount", "--foreground", "--engine", "erofs", f"{options.image}:{options.tag}")
    with tempfile.TemporaryDirectory() as work:
        ways = {
            name: partial(read_all, changed([(*constant, value)], *mount), Path(work)) for name, value in values.items()
        }
        report(f"{what}: tar c of everything", side_by_side(ways, options.rounds), reference)


def sweep_cache(options: argparse.Namespace) -> None:
    """Measure the effect of the span cache."""
    mount = ocifs("mount", "--foreground", "--engine", "erofs", f"{options.image}:{options.tag}", "--span-cache")
    with tempfile.TemporaryDirectory() as work:
        ways = {
            f"{size} MiB": partial(read_all, [*mount, f"{size}MiB"], Path(work)) for size in (8, 16, 32, 64, 128, 256)
        }
        report("span cache: tar c of everything", side_by_side(ways, options.rounds), "64 MiB")


def main() -> None:
    """Measure and print."""
    options = arguments()
    with tempfile.TemporaryDirectory() as work:
        sweep_spacing(options, Path(work))
    subprocess.run(ocifs("index", f"{options.image}:{options.tag}"), check=True, stdout=subprocess.DEVNULL)
    ahead = {f"{size} MiB": size * _MIB for size in (0, 1, 2, 4, 8, 16)}
    sweep_constant("bytes decoded ahead", AHEAD, ahead, "4 MiB", options)
    sizes = {f"{size} KiB": size for size in (128, 256, 512, 1024, 2048, 4096)}
    sweep_constant("readahead of the kernel", READ_AHEAD, sizes, "1024 KiB", options)
    sweep_cache(options)


def _shown(size: int) -> str:
    return f"{size // _KIB} KiB"


if __name__ == "__main__":
    main()
