"""Publish an image's index together with the hot pack of one start."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.timing import drop_caches, ocifs


@contextmanager
def mounted(reference: str, mountpoint: Path, cache: Path, *options: str) -> Iterator[None]:
    """Mount an image with a cache of its own."""
    mountpoint.mkdir(exist_ok=True)
    subprocess.run(ocifs("mount", "--cache-dir", str(cache), *options, reference, str(mountpoint)), check=True)
    try:
        yield
    finally:
        subprocess.run(ocifs("umount", str(mountpoint)), check=True)


def publish(reference: str, work: Path, command: Sequence[str]) -> None:
    """Record a start of `command`, and publish index and pack."""
    cache = work / "publisher"
    subprocess.run(ocifs("index", "--cache-dir", str(cache), reference), check=True, stdout=subprocess.DEVNULL)
    with mounted(reference, work / "mnt", cache, "--engine", "erofs"):
        drop_caches()
        subprocess.run(["chroot", work / "mnt", *command], check=True, stdout=subprocess.DEVNULL)
        record = ["--cache-dir", str(cache), "--record", str(work / "mnt")]
        subprocess.run(ocifs("index", "push", *record, reference), check=True, stdout=subprocess.DEVNULL)
