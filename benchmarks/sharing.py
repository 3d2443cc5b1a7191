"""What do mounts of one image save if they share decoded spans?

Side by side, with ten mounts of one image by the service, of which each imports numpy in turn: each mount with spans of
its own (`ocifs service --span-cache 0`), and shared ones. Memory is proportional (PSS): of the workers, the keeper, and
files in memory that no process maps. Hot packs are off, because they make most spans unnecessary. Then the same with
one mount of which every byte is read, where nothing is shared.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.timing import arguments, drop_caches, ocifs, report, seconds

_MOUNTS = 10
_OWN, _SHARED = "each mount has its own spans", "mounts share spans"
_WAYS = {_OWN: ("--idle", "0", "--span-cache", "0"), _SHARED: ("--idle", "0")}
_IMPORT = ["/usr/bin/python3", "-B", "-c", "import numpy"]


class _Taken(NamedTuple):
    """The cost of all mounts together."""

    seconds: float
    memory: float
    """MiB."""
    decoded: float
    """Spans."""
    processor: float
    """Seconds of the workers and the keeper."""


@contextmanager
def mounts(image: str, count: int, *options: str) -> Iterator[list[Path]]:
    """Mount an image by a service with these options."""
    with tempfile.TemporaryDirectory() as made:
        mountpoints = [Path(made, str(number)) for number in range(count)]
        subprocess.run(ocifs("service", *options), check=True)
        try:
            for mountpoint in mountpoints:
                mountpoint.mkdir()
                subprocess.run(
                    ocifs("mount", "--engine", "erofs", "--hot-pack", "0", image, str(mountpoint)), check=True
                )
            yield mountpoints
        finally:
            for mountpoint in mountpoints:
                subprocess.run(["umount", str(mountpoint)], check=False)
            subprocess.run(ocifs("service", "stop"), check=True)


def use(image: str, count: int, command: list[str], *options: str) -> _Taken:
    """Run a command on each mount in turn, with `{}` for the mountpoint."""
    drop_caches()
    with mounts(image, count, *options) as mountpoints:
        filled = [[part.format(mountpoint) for part in command] for mountpoint in mountpoints]
        taken = sum(map(seconds, filled))
        shown = subprocess.run(ocifs("mounts", "--json"), check=True, capture_output=True).stdout
        listed = [each for each in json.loads(shown) if Path(each["mountpoint"]) in mountpoints]
        assert len(listed) == count
        pids = {each["pid"] for each in listed} | {each["kept"]["keeper"] for each in listed}
        return _Taken(
            taken,
            sum(map(_proportional, pids)) + _unmapped(pids),
            sum(each["numbers"]["spans_decoded"] for each in listed),
            sum(map(_processor, pids)),
        )


def _proportional(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _unmapped(pids: set[int]) -> float:
    """Return the MiB of files with spans that a process has open and none has mapped."""
    mapped = {line.split()[4] for pid in pids for line in _span_maps(pid)}
    files = {}
    for link in (link for pid in pids for link in Path(f"/proc/{pid}/fd").iterdir()):
        if os.readlink(link).startswith("/memfd:ocifs-span"):
            status = link.stat()
            files[str(status.st_ino)] = status.st_blocks * 512 / (1 << 20)
    return sum(size for inode, size in files.items() if inode not in mapped)


def _span_maps(pid: int) -> list[str]:
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [line for line in lines if "/memfd:ocifs-span" in line]


def _processor(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print."""
    options = arguments()
    image = f"{options.image}:{options.tag}"
    subprocess.run(ocifs("index", image), check=True, stdout=subprocess.DEVNULL)
    for what, count, command in (
        (f"{_MOUNTS} mounts that import numpy", _MOUNTS, ["chroot", "{}", *_IMPORT]),
        ("every byte of one mount", 1, ["sh", "-c", "tar c -C {} . | cat"]),
    ):
        taken: dict[str, list[_Taken]] = {name: [] for name in _WAYS}
        for _ in range(options.rounds):
            for name, service in _WAYS.items():
                taken[name].append(use(image, count, command, *service))
        for field, unit in (("memory", "MiB"), ("decoded", "spans"), ("processor", "s"), ("seconds", "s")):
            values = {name: [getattr(each, field) for each in rounds] for name, rounds in taken.items()}
            label = {"processor": "processor time of the service"}.get(field, field)
            report(f"{what}: {label}", values, _OWN, unit)


if __name__ == "__main__":
    main()
