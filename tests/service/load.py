"""Readers for soaks: `python load.py KIND MOUNTPOINT REFERENCE STOP` reads until the file STOP exists.

Each compares what it reads with the same files in the directory REFERENCE, and prints how often it has read, and what
went wrong.
"""

import hashlib
import mmap
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def _whole(path: Path, reference: Path) -> bool:
    return hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(reference.read_bytes()).digest()


def _random(path: Path, reference: Path) -> bool:
    size = reference.stat().st_size
    with path.open("rb", buffering=0) as ours, reference.open("rb", buffering=0) as theirs:
        for _ in range(20):
            offset, length = random.randrange(size), random.randrange(1, 1 << 16)
            if os.pread(ours.fileno(), length, offset) != os.pread(theirs.fileno(), length, offset):
                return False
    return True


def _mapped(path: Path, reference: Path) -> bool:
    with path.open("rb") as ours, mmap.mmap(ours.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        return hashlib.sha256(mapped).digest() == hashlib.sha256(reference.read_bytes()).digest()


def _run(path: Path, reference: Path) -> bool:
    return subprocess.run([path.parent / "echo", "here"], capture_output=True, check=False).stdout == b"here\n"


def _tar(path: Path, reference: Path) -> bool:
    create = ["tar", "c", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--mode=0755", "-C"]
    archives = [
        subprocess.run([*create, each.parent, "."], capture_output=True, check=False) for each in (path, reference)
    ]
    return archives[0].stdout == archives[1].stdout and archives[0].returncode == 0


def _cold(path: Path, reference: Path) -> bool:
    Path("/proc/sys/vm/drop_caches").write_text("1")
    time.sleep(0.2)
    return _whole(path, reference)


def _idle(path: Path, reference: Path) -> bool:
    time.sleep(3)
    return _cold(path, reference)


KINDS: dict[str, Callable[[Path, Path], bool]] = {
    "whole": _whole,
    "random": _random,
    "mapped": _mapped,
    "run": _run,
    "tar": _tar,
    "cold": _cold,
    "idle": _idle,
}


def main(kind: str, mountpoint: Path, reference: Path, stop: Path) -> None:
    """Read and compare."""
    names = sorted(os.listdir(reference))
    count, wrong = 0, []
    while not stop.exists():
        name = random.choice(names)
        try:
            if not KINDS[kind](mountpoint / name, reference / name):
                wrong.append(f"{name}: other bytes")
        except OSError as error:
            wrong.append(f"{name}: {error}")
        count += 1
    print(kind, count, wrong, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
