"""How much memory does a mount hold, and how much does indexing take at most?

Side by side: what the daemon of each mount holds when nothing was asked of it, after `find`, and after every byte was
read (the span cache of ocifs has 64 MiB); and the most that indexing the image takes.
"""

import argparse
import subprocess
import sys
import tempfile
from functools import partial

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
_PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak(command: list[str]) -> float:
    """Return the most MiB that a command, or one of its children, held at a time."""
    with tempfile.TemporaryDirectory() as cache:
        filled = [part.replace("CACHE", f"{cache}/cache") for part in command]
        ran = subprocess.run([sys.executable, "-c", _PEAK, *filled], check=True, capture_output=True, text=True)
    return int(ran.stdout) * 1024 / (1 << 20)


def indexing(options: argparse.Namespace) -> dict[str, Measure]:
    """Return the ways to index an image."""
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
    report("the most memory that indexing takes", side_by_side(indexing(options), options.rounds), _OCIFS, "MiB")
    with trees_of(options) as trees:
        daemons = {name: daemon_of(tree) for name, tree in trees.items() if name != EXTRACTED}

        def held() -> dict[str, list[float]]:
            return {name: [resident(pid)] for name, pid in daemons.items()}

        report("memory of a daemon: nothing asked", held(), EROFS, "MiB")
        for what, command in (("find", "find {}"), ("every byte read", "tar c -C {} . >/dev/zero")):
            for name in daemons:
                drop_caches()
                subprocess.run(["sh", "-c", command.format(trees[name])], check=True, stdout=subprocess.DEVNULL)
            report(f"memory of a daemon: {what}", held(), EROFS, "MiB")


if __name__ == "__main__":
    main()
