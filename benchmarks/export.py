"""How long does it take to export an image, from uncached blobs to the end of the command?

Side by side: `umoci unpack`, and `ocifs export` in each form, of an indexed image. The export to a directory is also
measured with an unknown image, which includes indexing. `TMPDIR` names the file system of the target. On ext4 all
alternatives that create directories slow down from round to round, because ext4 reuses freshly freed inodes slowly.
"""

import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.timing import arguments, cold, ocifs, report, side_by_side


def written(out: Path, command: list[str]) -> float:
    """Return the seconds of a command that writes `out`; remove it."""
    try:
        return cold(command)
    finally:
        if out.is_dir():
            shutil.rmtree(out)
        else:
            out.unlink()


def unseen(out: Path, command: list[str]) -> float:
    """Measure with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        return written(out, [*command, "--cache-dir", f"{cache}/ocifs"])


def main() -> None:
    """Measure and print."""
    options = arguments()
    image = f"{options.image}:{options.tag}"
    subprocess.run(ocifs("index", image), check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "out")
        ways = {
            "umoci unpack": partial(written, out, ["umoci", "unpack", "--image", image, str(out)]),
            "ocifs export --to-dir": partial(written, out, ocifs("export", image, "--to-dir", str(out))),
            "  and index it before": partial(unseen, out, ocifs("export", image, "--to-dir", str(out))),
            "ocifs export --to-tar": partial(written, out, ocifs("export", image, "--to-tar", str(out))),
            "ocifs export --to-erofs": partial(written, out, ocifs("export", image, "--to-erofs", str(out))),
        }
        report("export an image", side_by_side(ways, options.rounds), "umoci unpack")


if __name__ == "__main__":
    main()
