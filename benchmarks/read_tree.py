"""How long does it take to read every byte of an image with nothing cached, and how much memory does the daemon hold?

Side by side: `tar c` of the mount, of fuse-overlayfs on the extracted tree and of the extracted tree; and inflating the
layers with zlib-ng in one thread, which is the least that has to be done.
"""

import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.timing import arguments, cold, report, side_by_side, trees_of

_INFLATE = """
import sys
from zlib_ng import zlib_ng
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        inflate = zlib_ng.decompressobj(wbits=31)
        while data := file.read(1 << 18):
            inflate.decompress(data)
"""


def resident(fragment: str) -> float:
    """Return the MiB that the process with `fragment` in its command line holds."""
    pid = subprocess.run(["pgrep", "-nf", fragment], check=True, capture_output=True, text=True).stdout.strip()
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def main() -> None:
    """Measure and print."""
    options = arguments()
    with trees_of(options) as trees:
        idle = resident("ocifs.mount.daemon")
        # Through a pipe: tar does not read what it would write to /dev/null.
        ways = {
            name: partial(cold, ["sh", "-c", f"tar c -C {tree} . | cat >/dev/null"]) for name, tree in trees.items()
        }
        blobs = sorted(Path(options.image, "blobs", "sha256").iterdir(), key=lambda path: path.stat().st_size)[-2:]
        ways["inflating the layers"] = partial(cold, [sys.executable, "-c", _INFLATE, *map(str, blobs)])
        report("tar c, nothing cached", side_by_side(ways, options.rounds), "inflating the layers")
        memory = {"idle": [idle], "after find and tar": [resident("ocifs.mount.daemon")]}
        report("memory of the daemon, span cache of 64 MiB", memory, "idle", "MiB")


if __name__ == "__main__":
    main()
