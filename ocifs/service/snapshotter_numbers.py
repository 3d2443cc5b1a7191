"""The numbers of a snapshotter for the metrics: a file in the runtime directory, which the exporter reads.

A snapshotter writes it at most once a second, and only after a request. The exporter uses it only while that process
runs.
"""

import contextlib
from typing import Final

import msgspec

from ocifs.atomic import atomic_file
from ocifs.mount.record import from_json, to_json
from ocifs.process import stat_of
from ocifs.trusted_directory import TrustedDirectory

BOUNDS: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)
"""Upper bounds of the time of a request in seconds, for a histogram; one more bucket has no bound."""
_NAME: Final = "snapshotter.numbers"
_MAX: Final = 1 << 20


class MethodNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """The requests of one method."""

    statuses: dict[str, int]
    """How many were answered with each status of gRPC."""
    buckets: tuple[int, ...]
    """How many took up to each of `BOUNDS`, but longer than the bound before."""
    seconds: float
    """How long all took together."""


class SnapshotterNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of a snapshotter."""

    pid: int
    began: int
    """When the process began, as in field 22 of `/proc/PID/stat`."""
    snapshots: dict[str, int]
    """How many there are: `active`, `view`, `committed`, and `remote` ones, which are committed without files."""
    images: int
    """Mounted images."""
    methods: dict[str, MethodNumbers]
    refuted: int = 0
    """Images that were refuted since it began."""


def began(pid: int) -> int:
    """Return when a process began, in ticks since the machine did; 0 if it does not run."""
    try:
        return stat_of(pid).began
    except OSError:
        return 0


def write_numbers(runtime: TrustedDirectory, numbers: SnapshotterNumbers) -> None:
    """Replace the file. Raises OSError."""
    with atomic_file(runtime.fd, _NAME, 0o600) as file:
        file.write(to_json(numbers))


def remove_numbers(runtime: TrustedDirectory) -> None:
    """Remove the file, if it is there."""
    with contextlib.suppress(OSError):
        runtime.unlink(_NAME)


def read_numbers(runtime: TrustedDirectory) -> SnapshotterNumbers | None:
    """Return the numbers of a snapshotter that runs; None without one."""
    try:
        numbers = from_json(runtime.read_file(_NAME, _MAX), SnapshotterNumbers)
    except (OSError, ValueError, RecursionError):
        return None
    return numbers if numbers.began == began(numbers.pid) else None
