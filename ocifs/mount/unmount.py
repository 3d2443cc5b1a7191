"""Unmount an image, or a bundle with everything mounted in it."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from ocifs.errors import MountError, printable_path
from ocifs.mount.mountinfo import is_below, mount_at, mount_table, unmount, users_elsewhere
from ocifs.mount.overlay import mounts_of_bundle, unmount_overlay
from ocifs.mount.record import ListedMount, list_mounts, watch_exit

_EXIT_SECONDS = 0.5
"""Seconds that a daemon normally takes to exit; after that, other mounts that keep it running are looked for."""
_REPLACE_SECONDS = 2.0
"""Seconds that another command may need to check a new mount, and that a replaced daemon may take to exit."""
_PATIENCE = 10.0
"""Seconds to wait for a daemon or fuse-overlayfs to exit; another mount namespace that keeps it may be ending, too."""


def unmount_image(mountpoint: str, *, lazy: bool, patience: float = 0.0) -> None:
    """Unmount the image on a real mountpoint, and wait until its daemon has exited, unless `lazy`.

    If it is busy, retry for `patience` seconds.

    Raises:
        MountError: Nothing of ocifs is mounted there, it is busy, or the daemon does not exit.
    """
    with _unmounted(mountpoint, lazy=lazy, patience=patience) as daemons:
        for each, has_ended in () if lazy else daemons:
            _wait(each, has_ended)
    list_mounts()  # removes the records of daemons that have exited


def replace_mount(mountpoint: str) -> None:
    """Unmount what ocifs has mounted on `mountpoint`, a real path, whether alive, dead or hung.

    A daemon that does not exit within two seconds is left behind: it does not touch later mounts there.

    Raises:
        MountError: Something else is mounted there as well, or the mount is busy.
    """
    mounts = [mount for mount in mount_table() if mount.mountpoint == mountpoint]
    for other in mounts:
        if other.digest is None:
            raise MountError(
                f"{printable_path(mountpoint)} is already a mountpoint ({other.fstype}), which --replace leaves alone: "
                "choose another directory"
            )
    for _ in mounts:
        with _unmounted(mountpoint, lazy=False, patience=_REPLACE_SECONDS) as daemons:
            for _, has_ended in daemons:
                has_ended(_REPLACE_SECONDS)
        list_mounts()  # removes the records of daemons that have exited: the next mount may get their device number


@contextmanager
def _unmounted(
    mountpoint: str, *, lazy: bool, patience: float = 0.0
) -> Iterator[list[tuple[ListedMount, Callable[[float], bool]]]]:
    """Unmount an image; yield its daemons, each with a `wait(seconds)` that returns whether it has exited.

    Raises:
        MountError: Nothing of ocifs is mounted there, or it is busy for `patience` seconds.
    """
    mounted = mount_at(mountpoint)
    if mounted is None:
        _check_access(mountpoint)
    if mounted is None or mounted.digest is None:
        raise MountError(f"{printable_path(mountpoint)} is not an ocifs mount: `ocifs mounts` lists those that are")
    listed = [each for each in list_mounts() if (each.mountpoint, each.state) == (mountpoint, "mounted")]
    ours = [each for each in listed if each.device in {None, mounted.device}]
    with ExitStack() as stack:
        daemons = [(each, stack.enter_context(watch_exit(each.pid))) for each in ours if each.pid]
        unmount(mountpoint, lazy=lazy or not ours, patience=patience)  # users of a dead mount may never finish
        yield daemons


def _check_access(mountpoint: str) -> None:
    """Raise MountError if `mountpoint` is inside a mount, or access is denied. Opens nothing."""
    mounts = [mount for mount in mount_table() if mount.digest is not None and is_below(mountpoint, mount.mountpoint)]
    if mounts:
        around = printable_path(mounts[-1].mountpoint)
        raise MountError(
            f"{printable_path(mountpoint)} is inside the mount on {around}: leave the directory, then unmount {around}"
        )
    try:
        os.readlink(mountpoint)
    except PermissionError as error:
        raise MountError(f"{printable_path(mountpoint)}: {error.strerror}") from None
    except OSError:
        return


def is_bundle(directory: str) -> bool:
    """Whether ocifs has mounted anything in the bundle `directory`, a real path."""
    return bool(mounts_of_bundle(directory))


def unmount_bundle(bundle: str, *, lazy: bool) -> None:
    """Unmount everything in a bundle; writes to an overlay are kept. Raises MountError."""
    patience = _PATIENCE if unmount_overlay(bundle, lazy=lazy) else 0.0
    for mount in mounts_of_bundle(bundle):
        unmount_image(mount.mountpoint, lazy=lazy, patience=patience)


def _wait(ended: ListedMount, has_ended: Callable[[float], bool]) -> None:
    """Wait for the daemon of a mount to exit. Raises MountError if something keeps it running."""
    if has_ended(_EXIT_SECONDS):
        return
    keepers = [mount.mountpoint for mount in mount_table() if ended.is_at(mount)]
    if not keepers:
        if has_ended(_PATIENCE):
            return
        keepers = [f"{command} ({pid})" for pid, command in users_elsewhere(ended.is_at) if pid != ended.pid]
    reason = (
        f", kept by {', '.join(map(printable_path, keepers[:5]))}"
        if keepers
        else f": `kill -KILL {ended.pid}` ends it; --lazy does not wait for it"
    )
    raise MountError(f"{printable_path(ended.mountpoint)} is unmounted, but its daemon {ended.pid} still runs{reason}")
