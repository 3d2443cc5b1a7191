"""The failure of a request, with the status that containerd understands."""

from typing import Literal

from ocifs.errors import OcifsError

Status = Literal[
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "INVALID_ARGUMENT",
    "FAILED_PRECONDITION",
    "UNAVAILABLE",
    "RESOURCE_EXHAUSTED",
    "DATA_LOSS",
    "INTERNAL",
]
"""Names of gRPC's status codes; containerd maps them to its own errors (its package errdefs)."""


class SnapshotError(OcifsError):
    """A request that cannot be carried out; the message is for the user of containerd."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status: Status = status


def not_found(name: str) -> SnapshotError:
    """Return the error that there is no snapshot of this name."""
    return SnapshotError("NOT_FOUND", f"snapshot {name!r}: not found")


def already_exists(name: str) -> SnapshotError:
    """Return the error that a name is taken."""
    return SnapshotError("ALREADY_EXISTS", f"snapshot {name!r}: already exists")
