"""How long does the first start of a program from an indexed image take, compared with the unpacked image?

Side by side, with cold caches, as root: `chroot` into a new mount of each engine, in which nothing is decoded, and into
the tree that umoci has unpacked on ext4.
"""

import argparse
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.images import image
from benchmarks.timing import EROFS, EXTRACTED, FUSE, Measure, arguments, cold, mounted, ocifs, report, side_by_side


def start(root: Path, module: str) -> float:
    """Return the seconds until Python in the image has imported a module."""
    return cold(["chroot", str(root), "python3", "-c", f"import {module}"])


def on_mount(command: list[str], module: str) -> float:
    """Return the same for a new mount."""
    with tempfile.TemporaryDirectory() as name:
        mountpoint = Path(name, "mnt")
        with mounted([*command, str(mountpoint)], mountpoint) as root:
            return start(root, module)


def unpacked(options: argparse.Namespace) -> Path:
    """Return the unpacked tree of the image, which umoci makes if it does not exist."""
    bundle = Path(options.image, f"bundle-{options.tag}")
    if not bundle.exists():
        reference = f"{options.image}:{options.tag}"
        subprocess.run(["umoci", "unpack", "--image", reference, str(bundle)], check=True, stderr=subprocess.DEVNULL)
    return bundle / "rootfs"


def main() -> None:
    """Measure and print."""
    debian = arguments()
    scientific = argparse.Namespace(**vars(debian) | {"image": str(image("scientific", debian)), "tag": "latest"})
    for module, options in (("numpy", debian), ("scipy.stats", scientific)):
        reference = f"{options.image}:{options.tag}"
        subprocess.run(ocifs("index", reference), check=True, stdout=subprocess.DEVNULL)
        ways: dict[str, Measure] = {
            EXTRACTED: partial(start, unpacked(options), module),
            EROFS: partial(on_mount, ocifs("mount", "--engine", "erofs", reference), module),
            FUSE: partial(on_mount, ocifs("mount", "--engine", "fuse", reference), module),
        }
        report(f"import {module}, nothing decoded", side_by_side(ways, options.rounds), EXTRACTED)


if __name__ == "__main__":
    main()
