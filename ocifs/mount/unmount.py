"""Ending mounts: of an image, or of a bundle with all that is stacked on its image."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from ocifs.errors import MountError, printable_path
from ocifs.mount.mountinfo import mount_at, mount_table, unmount, users_elsewhere
from ocifs.mount.overlay import mounts_of_bundle, unmount_overlay
from ocifs.mount.record import ListedMount, list_mounts, watched

_AT_ONCE = 0.5
"""Seconds that a daemon takes to end at most, as a rule; then it is looked whether it is mounted elsewhere as well."""
_A_MOMENT = 2.0
"""Seconds: a command that has just mounted looks whether its mount answers; an unmounted daemon ends."""
_PATIENCE = 10.0
"""Seconds that an unmounted daemon is given to end; another mount namespace that keeps it may be about to end, too."""


def unmount_image(mountpoint: str, *, lazy: bool) -> None:
    """Unmount an image, given its real mountpoint, and wait until its daemon has ended, but for a lazy one.

    Raises:
        MountError: Nothing of ocifs is mounted there, it is in use, or the daemon stays.
    """
    with _unmounted(mountpoint, lazy=lazy) as daemons:
        for each, has_ended in () if lazy else daemons:
            _wait(each, has_ended)
    list_mounts()  # forgets those that have ended


def replace_mount(mountpoint: str) -> None:
    """Unmount what ocifs has mounted on `mountpoint`, a real path, be it dead, alive or hung.

    A daemon that does not end within two seconds is left behind: it does not touch what is mounted there next.

    Raises:
        MountError: Something else is mounted there as well; or it is in use.
    """
    mounts = [mount for mount in mount_table() if mount.mountpoint == mountpoint]
    for other in mounts:
        if other.digest is None:
            raise MountError(
                f"{printable_path(mountpoint)} is already a mountpoint ({other.fstype}), which --replace leaves alone: "
                "choose another directory"
            )
    for _ in mounts:
        with _unmounted(mountpoint, lazy=False, patience=_A_MOMENT) as daemons:
            for _, has_ended in daemons:
                has_ended(_A_MOMENT)
        list_mounts()  # forgets those that have ended: the next mount may get their device


@contextmanager
def _unmounted(
    mountpoint: str, *, lazy: bool, patience: float = 0.0
) -> Iterator[list[tuple[ListedMount, Callable[[float], bool]]]]:
    """Unmount an image, and yield its daemons with what waits for each. Raises MountError."""
    mounted = mount_at(mountpoint)
    if mounted is None or mounted.digest is None:
        raise MountError(f"{printable_path(mountpoint)} is not an ocifs mount: `ocifs mounts` lists those that are")
    listed = [each for each in list_mounts() if (each.mountpoint, each.state) == (mountpoint, "mounted")]
    ours = [each for each in listed if each.device in {None, mounted.device}]
    with ExitStack() as stack:
        daemons = [(each, stack.enter_context(watched(each.pid))) for each in ours if each.pid]
        unmount(mountpoint, lazy=lazy or not ours, patience=patience)  # whoever is in a dead mount cannot be waited for
        yield daemons


def is_bundle(directory: str) -> bool:
    """Whether ocifs has mounted something in the bundle `directory`, a real path."""
    return bool(mounts_of_bundle(directory))


def unmount_bundle(bundle: str, *, lazy: bool) -> None:
    """Unmount all of a bundle; what was written to an overlay stays. Raises MountError."""
    unmount_overlay(bundle, lazy=lazy)
    for mount in mounts_of_bundle(bundle):
        unmount_image(mount.mountpoint, lazy=lazy)


def _wait(ended: ListedMount, has_ended: Callable[[float], bool]) -> None:
    """Wait for the daemon of a mount. Raises MountError if something keeps it."""
    if has_ended(_AT_ONCE):
        return
    keepers = [mount.mountpoint for mount in mount_table() if ended.is_at(mount)]
    if not keepers:
        if has_ended(_PATIENCE):
            return
        keepers = [f"{command} ({pid})" for pid, command in users_elsewhere(ended.is_at) if pid != ended.pid]
    kept = (
        f", kept by {', '.join(map(printable_path, keepers[:5]))}"
        if keepers
        else f": `kill -KILL {ended.pid}` ends it; with --lazy it is not waited for"
    )
    raise MountError(f"{printable_path(ended.mountpoint)} is unmounted, but its daemon {ended.pid} still runs{kept}")
