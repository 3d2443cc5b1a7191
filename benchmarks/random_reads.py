"""How long does a random read of 4 KiB in a large gzip layer take, and how many reads are there in a second?

Side by side, with cold caches: the mounts of both engines and of ratarmount; indexed_gzip and rapidgzip without a
mount, with a separate handle for each reader; and the lower bound, inflating one span with zlib-ng. Each reader is a
process.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import NamedTuple

from benchmarks.images import LARGE_FILES, image
from benchmarks.timing import EROFS, FUSE, arguments, drop_caches, mounted, ocifs, report

_READ = 4096
_FILE = "data/random"
_READERS = (1, 4, 16)
_SECONDS = 3.0
_TAR_HEADER = 512

Read = Callable[[int], bytes]
"""Reads 4 KiB of the file at an offset."""
Open = Callable[[], Read]
"""Return a reader, in the process that will use it."""


class SelectedIndex(NamedTuple):
    """The results of concurrent readers."""

    latencies: list[float]
    rate: float


def from_file(path: Path) -> Read:
    """Read a file on a mount."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    return lambda offset: os.pread(fd, _READ, offset)


def by_indexed_gzip(blob: Path, index: Path) -> Read:
    """Read the layer with indexed_gzip."""
    import indexed_gzip

    file = indexed_gzip.IndexedGzipFile(str(blob), index_file=str(index), buffer_size=1 << 16)

    def read(offset: int) -> bytes:
        file.seek(_TAR_HEADER + offset)
        return bytes(file.read(_READ))

    return read


def by_rapidgzip(blob: Path, index: Path) -> Read:
    """Read the layer with rapidgzip."""
    import rapidgzip

    file = rapidgzip.RapidgzipFile(str(blob), parallelization=1)
    file.import_index(str(index))

    def read(offset: int) -> bytes:
        file.seek(_TAR_HEADER + offset)
        return bytes(file.read(_READ))

    return read


def _reader(open_file: Open, seed: int, start: Barrier, queue: "multiprocessing.Queue[list[float]]") -> None:
    place = random.Random(seed)
    read = open_file()
    start.wait()
    until = time.perf_counter() + _SECONDS
    latencies = []
    while (began := time.perf_counter()) < until:
        data = read(place.randrange(LARGE_FILES[_FILE] // _READ) * _READ)
        latencies.append(time.perf_counter() - began)
        assert len(data) == _READ
    queue.put(latencies)
    queue.close()
    queue.join_thread()
    os._exit(0)  # rapidgzip's threads end only with the process


def measure(open_file: Open, readers: int, seed: int) -> SelectedIndex:
    """Run the readers with cold caches."""
    start = multiprocessing.Barrier(readers, action=drop_caches)
    queue: multiprocessing.Queue[list[float]] = multiprocessing.Queue()
    processes = [
        multiprocessing.Process(target=_reader, args=(open_file, seed * 100 + number, start, queue))
        for number in range(readers)
    ]
    for process in processes:
        process.start()
    latencies = sorted(each for _ in processes for each in queue.get())
    for process in processes:
        process.join()
    return SelectedIndex(latencies, len(latencies) / _SECONDS)


def main() -> None:
    """Measure and print."""
    options = arguments()
    layout = image("large", options)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        ways = _ways(layout, options, Path(name), stack)
        for readers in _READERS:
            taken: dict[str, list[SelectedIndex]] = {way: [] for way in ways}
            for number in range(options.rounds):
                for way, open_file in ways.items():
                    taken[way].append(measure(open_file, readers, number))
            who = "one reader" if readers == 1 else f"{readers} readers"
            for share, what in ((0.5, "the median"), (0.99, "the 99th percentile")):
                times = {
                    way: [1000 * each.latencies[int(share * len(each.latencies))] for each in all_]
                    for way, all_ in taken.items()
                }
                report(f"4 KiB at random, {who}: {what} of a read", times, "indexed_gzip, no mount", "ms")
            rates = {way: [each.rate for each in all_] for way, all_ in taken.items()}
            report(f"4 KiB at random, {who}: reads in a second", rates, "indexed_gzip, no mount", "/s")


def _ways(layout: Path, options: argparse.Namespace, work: Path, stack: ExitStack) -> dict[str, Open]:
    subprocess.run(ocifs("index", str(layout)), check=True, stdout=subprocess.DEVNULL)
    (digest,) = (
        layer["digest"].partition(":")[2]
        for layer in json.loads(
            subprocess.run(ocifs("index", "--json", str(layout)), check=True, capture_output=True).stdout
        )["layers"]
    )
    blob = layout / "blobs/sha256" / digest
    ways: dict[str, Open] = {}
    for way, engine in ((EROFS, "erofs"), (FUSE, "fuse")):
        mountpoint = stack.enter_context(
            mounted(ocifs("mount", "--engine", engine, str(layout), str(work / engine)), work / engine)
        )
        ways[way] = partial(from_file, mountpoint / _FILE)
    if shutil.which("ratarmount") and "ratarmount" not in options.without:
        command = ["ratarmount", "--index-folders", str(layout), str(blob), str(work / "ratarmount")]
        ways["ratarmount"] = partial(from_file, stack.enter_context(mounted(command, work / "ratarmount")) / _FILE)
    index = layout / "indexed_gzip"
    if not index.exists():
        build = "import indexed_gzip, sys; f = indexed_gzip.IndexedGzipFile(sys.argv[1], spacing=1 << 20); "
        build += "f.build_full_index(); f.export_index(sys.argv[2])"
        subprocess.run([sys.executable, "-c", build, str(blob), str(index)], check=True)
    ways["indexed_gzip, no mount"] = partial(by_indexed_gzip, blob, index)
    ways["rapidgzip, no mount"] = partial(by_rapidgzip, blob, index)
    return ways


if __name__ == "__main__":
    main()
