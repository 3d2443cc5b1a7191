"""How much space do indexes take?

As a share of the compressed layers: LayerIndexes and tree image of ocifs, and the index of ratarmount for the same
layers.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.timing import arguments, layer_blobs, mounted, ocifs, report

_OCIFS = "ocifs"


def files_below(directory: Path) -> int:
    """Return the bytes of all files in a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def main() -> None:
    """Measure and print."""
    options = arguments()
    blobs = layer_blobs(options)
    layers = sum(blob.stat().st_size for blob in blobs)
    with tempfile.TemporaryDirectory() as name:
        kept = Path(name, "ocifs")
        image = f"{options.image}:{options.tag}"
        subprocess.run(ocifs("index", "--cache-dir", str(kept), image), check=True, stdout=subprocess.DEVNULL)
        taken = {_OCIFS: [100 * files_below(kept) / layers]}
        if shutil.which("ratarmount") and "ratarmount" not in options.without:
            kept, mountpoint = Path(name, "ratarmount"), Path(name, "mnt")
            command = ["ratarmount", "--index-folders", str(kept), *map(str, blobs), str(mountpoint)]
            with mounted(command, mountpoint):
                taken["ratarmount"] = [100 * files_below(kept) / layers]
    report("space for the indexes of an image, as a share of its layers", taken, _OCIFS, "%")


if __name__ == "__main__":
    main()
