"""How long does it take to mount an indexed image, and does that depend on the size of the image?

Side by side: mounts, with both engines, of a tiny image and of each tag of the Debian image; and the start of the
interpreter with the modules that the daemon needs.
"""

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.images import image
from benchmarks.timing import arguments, ocifs, report, seconds, side_by_side


def mount_once(engine: str, image: str, mountpoint: str) -> float:
    """Return the seconds until a mount responds; unmount it."""
    taken = seconds(ocifs("mount", "--engine", engine, image, mountpoint))
    subprocess.run(ocifs("umount", mountpoint), check=True)
    return taken


def main() -> None:
    """Measure and print."""
    options = arguments()
    with tempfile.TemporaryDirectory() as directory:
        mountpoint = Path(directory, "mnt")
        mountpoint.mkdir()
        sample = Path(directory, "sample")
        script = Path(__file__).parent.parent / "scripts" / "sample_image.py"
        subprocess.run([sys.executable, script, sample], check=True)
        images = {"10 inodes": str(sample)} | {tag: f"{options.image}:{tag}" for tag in ("base", "tools", "latest")}
        images["100 layers"] = str(image("many-layers", options))
        for reference in images.values():
            subprocess.run(ocifs("index", reference), check=True, stdout=subprocess.DEVNULL)
        interpreter = "import trio, pyfuse3"
        ways = {
            interpreter: partial(seconds, [sys.executable, "-c", "import trio, pyfuse3"]),
            "nothing imported": partial(seconds, [sys.executable, "-c", "pass"]),
        } | {
            f"{engine} engine, {name}": partial(mount_once, engine, reference, str(mountpoint))
            for engine in ("fuse", "erofs")
            for name, reference in images.items()
        }
        report("a warm mount", side_by_side(ways, options.rounds), interpreter)


if __name__ == "__main__":
    main()
