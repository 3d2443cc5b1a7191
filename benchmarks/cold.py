"""How long does it take from an unknown image to its first file?

Side by side, with cold caches: `ocifs mount` with an empty cache, and reading a file; ratarmount over the layers;
`umoci unpack`; podman's pull and mount; unpacking and conversion to SquashFS. The lower bound is the time to inflate
the layers, here with rapidgzip on all processors.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.container import Podman
from benchmarks.images import image
from benchmarks.timing import Measure, arguments, drop_caches, layer_blobs, ocifs, report, side_by_side

_FILE = "etc/hostname"
_OCIFS = "ocifs mount"
_INFLATE = """
import rapidgzip, sys
for path in sys.argv[1:]:
    with rapidgzip.open(path, parallelization=0) as file:
        while file.read(1 << 22):
            pass
"""


def mount_cold(command: list[str], work: Path) -> float:
    """Return the seconds until `command`, with a new cache directory, has mounted an image and a file is readable."""
    drop_caches()
    with tempfile.TemporaryDirectory(dir=work) as name:
        mountpoint = Path(name, "mnt")
        mountpoint.mkdir()
        filled = [part.replace("CACHE", f"{name}/cache").replace("MOUNTPOINT", str(mountpoint)) for part in command]
        began = time.perf_counter()
        subprocess.run(filled, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        (mountpoint / _FILE).read_bytes()
        taken = time.perf_counter() - began
        subprocess.run(["umount", str(mountpoint)], check=True)
    return taken


def unpack(reference: str, work: Path) -> float:
    """Return the seconds that `umoci unpack` takes."""
    drop_caches()
    bundle = work / "bundle"
    began = time.perf_counter()
    subprocess.run(["umoci", "unpack", "--image", reference, str(bundle)], check=True, stderr=subprocess.DEVNULL)
    (bundle / "rootfs" / _FILE).read_bytes()
    taken = time.perf_counter() - began
    shutil.rmtree(bundle)
    return taken


def convert(reference: str, work: Path) -> float:
    """Return the seconds to unpack an image, pack it as SquashFS, and mount that."""
    drop_caches()
    bundle, packed, mountpoint = work / "bundle", work / "squashfs", work / "mnt"
    mountpoint.mkdir(exist_ok=True)
    began = time.perf_counter()
    subprocess.run(["umoci", "unpack", "--image", reference, str(bundle)], check=True, stderr=subprocess.DEVNULL)
    pack = ["mksquashfs", str(bundle / "rootfs"), str(packed), "-quiet", "-no-progress", "-comp", "zstd"]
    subprocess.run([*pack, "-Xcompression-level", "3"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["squashfuse", str(packed), str(mountpoint)], check=True)
    (mountpoint / _FILE).read_bytes()
    taken = time.perf_counter() - began
    subprocess.run(["umount", str(mountpoint)], check=True)
    shutil.rmtree(bundle)
    packed.unlink()
    return taken


def pull_and_mount(reference: str, work: Path) -> float:
    """Return the seconds that podman takes to pull an image and mount it."""
    drop_caches()
    with tempfile.TemporaryDirectory(dir=work) as name:
        began = time.perf_counter()
        podman = Podman(Path(name), reference)
        mounted = Path(podman.run("image", "mount", podman.image).strip())
        (mounted / _FILE).read_bytes()
        taken = time.perf_counter() - began
        podman.run("image", "umount", "--all")
        podman.close()
    return taken


def inflate(blobs: list[Path]) -> float:
    """Return the seconds that rapidgzip takes to inflate the layers on all processors."""
    drop_caches()
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", _INFLATE, *map(str, blobs)], check=True)
    return time.perf_counter() - began


def ways(options: argparse.Namespace, work: Path) -> dict[str, Measure]:
    """Return the alternatives that are available on this machine."""
    reference = f"{options.image}:{options.tag}"
    blobs = layer_blobs(options)
    found: dict[str, tuple[str, Measure]] = {
        _OCIFS: ("ocifs", partial(mount_cold, ocifs("mount", "--cache-dir", "CACHE", reference, "MOUNTPOINT"), work)),
        "inflating, rapidgzip": ("sh", partial(inflate, blobs)),
        "ratarmount": (
            "ratarmount",
            partial(mount_cold, ["ratarmount", "--index-folders", "CACHE", *map(str, blobs), "MOUNTPOINT"], work),
        ),
        "umoci unpack": ("umoci", partial(unpack, reference, work)),
        "podman pull, image mount": ("podman", partial(pull_and_mount, reference, work)),
        "umoci unpack, mksquashfs, squashfuse": ("squashfuse", partial(convert, reference, work)),
    }
    return {
        name: measure
        for name, (tool, measure) in found.items()
        if (tool == "ocifs" or shutil.which(tool)) and tool not in options.without
    }


def main() -> None:
    """Measure and print."""
    debian = arguments()
    scientific = argparse.Namespace(**vars(debian) | {"image": str(image("scientific", debian)), "tag": "latest"})
    for what, options in (("the Debian image", debian), ("Debian with a layer of Python packages", scientific)):
        with tempfile.TemporaryDirectory(prefix="benchmark") as name:
            taken = side_by_side(ways(options, Path(name)), options.rounds)
        report(f"from an unknown image to its first file: {what}", taken, _OCIFS)


if __name__ == "__main__":
    main()
