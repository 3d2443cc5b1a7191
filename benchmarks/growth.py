"""How does each cost grow with the image?

Images of 31,250, 125,000 and 500,000 small files in 40 layers: one, four and sixteen times the size. Indexing (its time
and its memory), `find` and `du` should grow like the image, and mounting an indexed image not at all. Then layers whose
gzip members hold one byte each, each with twice as many as the one before: indexing should take twice as long.
"""

import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.images import image
from benchmarks.memory import peak
from benchmarks.timing import Measure, arguments, cold, mounted, ocifs, report, seconds, side_by_side

_TIMES = (1, 4, 16)
_KIB = (20, 40, 80, 160, 320, 640)


def index(layout: Path) -> float:
    """Return the seconds to index an unknown image."""
    with tempfile.TemporaryDirectory() as cache:
        return seconds(ocifs("index", "--cache-dir", cache, str(layout)))


def mount(layout: Path, mountpoint: Path) -> float:
    """Return the seconds to mount an indexed image."""
    began = time.perf_counter()
    with mounted(ocifs("mount", str(layout), str(mountpoint)), mountpoint):
        return time.perf_counter() - began


def find(layout: Path, engine: str, mountpoint: Path) -> float:
    """Return the seconds of `find` on a mount, with cold caches."""
    with mounted(ocifs("mount", "--engine", engine, str(layout), str(mountpoint)), mountpoint):
        return cold(["find", str(mountpoint)])


def main() -> None:
    """Measure and print."""
    options = arguments()
    with tempfile.TemporaryDirectory() as name:
        mountpoint = Path(name, "mnt")
        layouts = {f"{times} x": image(f"growth-{times}", options) for times in _TIMES}
        for layout in layouts.values():
            subprocess.run(ocifs("index", str(layout)), check=True, stdout=subprocess.DEVNULL)
        questions: dict[str, dict[str, Measure]] = {
            "ocifs index": {times: partial(index, layout) for times, layout in layouts.items()},
            "ocifs mount, indexed": {times: partial(mount, layout, mountpoint) for times, layout in layouts.items()},
            "find, erofs engine": {t: partial(find, layout, "erofs", mountpoint) for t, layout in layouts.items()},
            "find, fuse engine": {t: partial(find, layout, "fuse", mountpoint) for t, layout in layouts.items()},
            "ocifs du -s": {t: partial(seconds, ocifs("du", "-s", str(layout))) for t, layout in layouts.items()},
            "ocifs ls": {t: partial(seconds, ocifs("ls", str(layout))) for t, layout in layouts.items()},
        }
        for question, ways in questions.items():
            report(f"{question}, by the size of the image", side_by_side(ways, options.rounds), f"{_TIMES[0]} x")
        members = {f"{kib} Ki": partial(index, image(f"members-{kib}", options)) for kib in _KIB}
        question = "ocifs index, by the number of gzip members of one byte"
        report(question, side_by_side(members, options.rounds), f"{_KIB[0]} Ki")
        peaks: dict[str, Measure] = {
            times: partial(peak, ocifs("index", "--cache-dir", "CACHE", str(layout)))
            for times, layout in layouts.items()
        }
        title = "peak memory of ocifs index, by the size of the image"
        report(title, side_by_side(peaks, options.rounds), f"{_TIMES[0]} x", "MiB")


if __name__ == "__main__":
    main()
