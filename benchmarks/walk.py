"""How long does it take to walk through a whole image with nothing cached: `find` and `find -ls`?

Side by side: the mount, fuse-overlayfs on the extracted tree, and the extracted tree itself.
"""

import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.timing import arguments, cold, mounted, ocifs, report, side_by_side


def main() -> None:
    """Measure and print."""
    options = arguments()
    extracted = Path(options.image, f"bundle-{options.tag}", "rootfs")
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        work = Path(directory)
        for name in ("upper", "work"):
            (work / name).mkdir()
        overlay = ["fuse-overlayfs", "-o", f"lowerdir={extracted},upperdir={work}/upper,workdir={work}/work"]
        trees = {
            "ocifs, fuse engine": stack.enter_context(
                mounted(ocifs("mount", f"{options.image}:{options.tag}", f"{work}/ocifs"), work / "ocifs")
            ),
            "fuse-overlayfs": stack.enter_context(mounted([*overlay, f"{work}/overlay"], work / "overlay")),
            "extracted": extracted,
        }
        for tail in ([], ["-ls"]):
            ways = {name: partial(cold, ["find", str(tree), *tail]) for name, tree in trees.items()}
            report(f"find {' '.join(tail)}, nothing cached", side_by_side(ways, options.rounds), "fuse-overlayfs")


if __name__ == "__main__":
    main()
