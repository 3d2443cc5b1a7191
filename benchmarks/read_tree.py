"""How long does it take to read every byte of an image, and how much memory does the daemon hold afterwards?

Side by side: `tar c` of the mounts of both engines, of those of other tools, and of the extracted tree, with nothing
cached and once more with everything cached; and inflating the layers with zlib-ng in one thread, which is the least
that has to be done.
"""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.timing import (
    EROFS,
    EXTRACTED,
    FUSE,
    arguments,
    cold,
    layer_blobs,
    ocifs,
    report,
    seconds,
    side_by_side,
    trees_of,
)

_INFLATE = """
import sys
from zlib_ng import zlib_ng
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        inflate = zlib_ng.decompressobj(wbits=31)
        while data := file.read(1 << 18):
            inflate.decompress(data)
"""


def tar(tree: Path) -> list[str]:
    """Return the command that reads everything: not to /dev/null, since tar would notice and read nothing."""
    return ["sh", "-c", f"tar c -C {tree} . >/dev/zero"]


def resident(tree: Path) -> float:
    """Return the MiB that the daemon of a mount holds."""
    listed = json.loads(subprocess.run(ocifs("mounts", "--json"), check=True, capture_output=True).stdout)
    pid = next(mount["pid"] for mount in listed if mount["mountpoint"] == str(tree))
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def main() -> None:
    """Measure and print."""
    options = arguments()
    with trees_of(options) as trees:
        memory = {f"{engine}: idle": [resident(trees[engine])] for engine in (EROFS, FUSE)}
        ways = {name: partial(cold, tar(tree)) for name, tree in trees.items()}
        inflate = [sys.executable, "-c", _INFLATE, *map(str, layer_blobs(options))]
        ways["inflating the layers"] = partial(cold, inflate)
        report("tar c, nothing cached", side_by_side(ways, options.rounds), "inflating the layers")
        memory |= {f"{engine}: after that": [resident(trees[engine])] for engine in (EROFS, FUSE)}
        again = {name: partial(seconds, tar(tree)) for name, tree in trees.items()}
        side_by_side(again, 1)
        report("tar c, everything cached", side_by_side(again, options.rounds), EXTRACTED)
        report("memory of the daemon, span cache of 64 MiB", memory, f"{EROFS}: idle", "MiB")


if __name__ == "__main__":
    main()
