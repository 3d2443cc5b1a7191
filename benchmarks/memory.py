"""How much memory does a mount take, and how much does indexing take at its peak?

Side by side: the resident memory (RSS) of the daemon of each mount when idle, after `find`, and after every byte was
read (the span cache of ocifs has 64 MiB); and the peak of the proportional memory (PSS) of indexing the image.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.timing import (
    EROFS,
    EXTRACTED,
    Measure,
    arguments,
    daemon_of,
    drop_caches,
    layer_blobs,
    ocifs,
    report,
    resident,
    side_by_side,
    trees_of,
)

_OCIFS = "ocifs index"
_LOOKING = 0.01
"""Seconds between two samples of the memory."""


def peak(command: list[str]) -> float:
    """Return the peak memory of a command and its children in MiB, as sampled; shared memory counts once."""
    with tempfile.TemporaryDirectory() as cache:
        filled = [part.replace("CACHE", f"{cache}/cache") for part in command]
        most = 0.0
        with subprocess.Popen(filled, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                most = max(most, sum(map(_held, _with_children(process.pid))))
                time.sleep(_LOOKING)
    assert process.returncode == 0
    return most


def _with_children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        threads = [path for path in Path(f"/proc/{pid}/task").iterdir() if path.name != str(pid)]
        for thread in threads:
            with contextlib.suppress(OSError):
                children += (thread / "children").read_text().split()
        return [pid, *(each for child in children for each in _with_children(int(child)))]
    return []


def _held(pid: int) -> float:
    """Return the proportional memory (`Pss`) of a process in MiB."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
    return 0.0


def indexing(options: argparse.Namespace) -> dict[str, Measure]:
    """Return the alternatives that index an image."""
    image = f"{options.image}:{options.tag}"
    build = "import indexed_gzip, sys\nfor path in sys.argv[1:]:\n"
    build += "    with indexed_gzip.IndexedGzipFile(path, spacing=1 << 20) as file:\n        file.build_full_index()"
    return {
        _OCIFS: partial(peak, ocifs("index", "--cache-dir", "CACHE", image)),
        "ocifs index --low-memory": partial(peak, ocifs("index", "--low-memory", "--cache-dir", "CACHE", image)),
        "indexed_gzip": partial(peak, [sys.executable, "-c", build, *map(str, layer_blobs(options))]),
    }


def main() -> None:
    """Measure and print."""
    options = arguments()
    report("peak memory of indexing", side_by_side(indexing(options), options.rounds), _OCIFS, "MiB")
    with trees_of(options) as trees:
        daemons = {name: daemon_of(tree) for name, tree in trees.items() if name != EXTRACTED}

        def held() -> dict[str, list[float]]:
            return {name: [resident(pid)] for name, pid in daemons.items()}

        report("memory of a daemon: idle", held(), EROFS, "MiB")
        for what, command in (("find", "find {}"), ("every byte read", "tar c -C {} . >/dev/zero")):
            for name in daemons:
                drop_caches()
                subprocess.run(["sh", "-c", command.format(trees[name])], check=True, stdout=subprocess.DEVNULL)
            report(f"memory of a daemon: {what}", held(), EROFS, "MiB")


if __name__ == "__main__":
    main()
