"""Ending mounts: of an image, or of a bundle with all that is stacked on its image."""

from ocifs.errors import MountError, printable_path
from ocifs.mount.mountinfo import mount_at, unmount
from ocifs.mount.overlay import mounts_of_bundle, unmount_overlay
from ocifs.mount.record import list_mounts, wait_for_end

_PATIENCE = 10.0
"""Seconds that an unmounted daemon is given to end."""


def end_mount(mountpoint: str, *, lazy: bool) -> None:
    """Unmount an image, given its real mountpoint, and wait until its daemon has ended.

    Raises:
        MountError: Nothing of ocifs is mounted there, it is in use, or the daemon stays.
    """
    mounted = mount_at(mountpoint)
    shown = printable_path(mountpoint)
    if mounted is None or mounted.digest is None:
        raise MountError(f"{shown} is not an ocifs mount: `ocifs mounts` lists those that are")
    records = [record for record in list_mounts() if record.mountpoint == mountpoint and record.pid]
    unmount(mountpoint, lazy=lazy or any(record.state == "dead" for record in records))
    for record in records:
        if not lazy and not wait_for_end(record.pid, _PATIENCE):
            raise MountError(f"{shown} is unmounted, but its daemon {record.pid} still runs")
    list_mounts()  # forgets those that have ended


def is_bundle(directory: str) -> bool:
    """Whether ocifs has mounted something in the bundle `directory`, a real path."""
    return bool(mounts_of_bundle(directory))


def end_bundle(bundle: str, *, lazy: bool) -> None:
    """Unmount all of a bundle; what was written to an overlay stays. Raises MountError."""
    unmount_overlay(bundle, lazy=lazy)
    for mount in mounts_of_bundle(bundle):
        end_mount(mount.mountpoint, lazy=lazy)
