"""How long does it take to read every byte of an image?

Side by side: `tar c` of the mounts of both engines, of those of other tools, and of the extracted tree, with cold
caches and again with warm caches; and the lower bound, inflating the layers with zlib-ng in one thread.
"""

import sys
from functools import partial
from pathlib import Path

from benchmarks.timing import (
    EXTRACTED,
    arguments,
    cold,
    layer_blobs,
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
    """Return the command that reads all files. It does not write to /dev/null, because tar would then read nothing."""
    return ["sh", "-c", f"tar c -C {tree} . >/dev/zero"]


def main() -> None:
    """Measure and print."""
    options = arguments()
    with trees_of(options) as trees:
        ways = {name: partial(cold, tar(tree)) for name, tree in trees.items()}
        inflate = [sys.executable, "-c", _INFLATE, *map(str, layer_blobs(options))]
        ways["inflating the layers"] = partial(cold, inflate)
        report("tar c, nothing cached", side_by_side(ways, options.rounds), "inflating the layers")
        again = {name: partial(seconds, tar(tree)) for name, tree in trees.items()}
        side_by_side(again, 1)
        report("tar c, everything cached", side_by_side(again, options.rounds), EXTRACTED)


if __name__ == "__main__":
    main()
