"""How fast is reading a large file in order, with one reader or with several at once?

Side by side, with cold caches: 2 GiB of a file of 3 GiB in one gzip layer, read by `dd` with one reader, then with 2, 4
and 8, each with its share; with both engines and ratarmount. The lower bound is the time to inflate the same bytes,
here with zlib-ng in one thread.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.images import image
from benchmarks.timing import EROFS, FUSE, Measure, arguments, drop_caches, mounted, ocifs, report, side_by_side

_FILE = "data/sequential"
_MIB = 2048
_READERS = (1, 2, 4, 8)
_INFLATE = f"""
import sys
from zlib_ng import zlib_ng
left = {_MIB} << 20
inflate = zlib_ng.decompressobj(wbits=31)
with open(sys.argv[1], "rb") as file:
    while left > 0:
        left -= len(inflate.decompress(file.read(1 << 18)))
"""
_LIMIT = "inflating, zlib-ng"


def read(path: Path, readers: int) -> float:
    """Return the seconds that concurrent readers take."""
    drop_caches()
    share = _MIB // readers
    began = time.perf_counter()
    processes = [
        subprocess.Popen(
            ["dd", f"if={path}", "of=/dev/null", "bs=1M", f"count={share}", f"skip={share * number}", "status=none"]
        )
        for number in range(readers)
    ]
    assert [process.wait() for process in processes] == [0] * readers
    return time.perf_counter() - began


def inflate(blob: Path) -> float:
    """Return the seconds to inflate the same number of bytes."""
    drop_caches()
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", _INFLATE, blob], check=True)
    return time.perf_counter() - began


def files(layout: Path, blob: Path, options: argparse.Namespace, work: Path, stack: ExitStack) -> dict[str, Path]:
    """Return the path of the file in each alternative."""
    found = {}
    for name, engine in ((EROFS, "erofs"), (FUSE, "fuse")):
        command = ocifs("mount", "--engine", engine, str(layout), str(work / engine))
        found[name] = stack.enter_context(mounted(command, work / engine)) / _FILE
    if shutil.which("ratarmount") and "ratarmount" not in options.without:
        command = ["ratarmount", "--index-folders", str(layout), str(blob), str(work / "ratarmount")]
        found["ratarmount"] = stack.enter_context(mounted(command, work / "ratarmount")) / _FILE
    return found


def main() -> None:
    """Measure and print."""
    options = arguments()
    layout = image("large", options)
    blob = max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        found = files(layout, blob, options, Path(name), stack)
        for readers in _READERS:
            ways: dict[str, Measure] = {way: partial(read, path, readers) for way, path in found.items()}
            ways[_LIMIT] = partial(inflate, blob)
            who = "one reader" if readers == 1 else f"{readers} readers"
            report(f"2 GiB of a large file, {who}", side_by_side(ways, options.rounds), _LIMIT)


if __name__ == "__main__":
    main()
