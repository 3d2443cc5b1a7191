"""Check whether a directory can be mounted on, before anything is started.

An existing mount is never accessed, since its daemon may hang: the mount table says what it is.
"""

import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from ocifs.errors import MountError, printable_path
from ocifs.mount.mountinfo import MountEntry, is_below, mount_at, mount_table, real_mountpoint, steps
from ocifs.mount.record import list_mounts
from ocifs.sources.reference import Reference


def check_mountpoint(
    path: str, keep_visible: Iterable[tuple[str, str]], cache: Path | None = None, *, replace: bool = False
) -> str:
    """Return the mountpoint's real path. `keep_visible` are (what, path) of all that the mount must not hide.

    Nothing may be mounted inside `cache`, the cache directory. With `replace` an ocifs mount may be on the mountpoint;
    then the caller must check the directory below with `check_free` after unmounting.

    Raises:
        MountError: It cannot be mounted on; the message says why and what to do.
    """
    real = real_mountpoint(path)
    shown = printable_path(path)
    mounted = _occupant(real)
    if mounted and not (mounted.digest and replace):
        raise _occupied(mounted, shown)
    _check_visible(real, shown, keep_visible, cache)
    if not mounted:
        _check_directory(real, shown)
    return real


def needed(reference: Reference, cache: Path | None, runtime: str, log: str | None) -> list[tuple[str, str]]:
    """Return (what, path) of all that a mount of an image must not hide."""
    return [
        *([("the image", reference.path)] if reference.is_path else []),
        *([("the cache", str(cache))] if cache else []),
        ("the current directory", os.getcwd()),
        ("the runtime directory", runtime),
        *([("the log", log)] if log else []),
    ]


def check_free(real: str, shown: str) -> None:
    """Check that nothing is mounted on a real path, and that it can be mounted on. Raises MountError."""
    if mounted := _occupant(real):
        raise _occupied(mounted, shown)
    _check_directory(real, shown)


def is_on_automount(real: str) -> bool:
    """Whether a real path is an automount, or lies in one."""
    return any(mount.is_automount and is_below(real, mount.mountpoint) for mount in mount_table())


def _occupant(real: str) -> MountEntry | None:
    """Return the topmost mount on a real path, unless it is an automount, which waits for a mount on top of it."""
    mounted = mount_at(real)
    return None if mounted is None or mounted.is_automount else mounted


def _occupied(mounted: MountEntry, shown: str) -> MountError:
    if mounted.digest is None:
        remedy = "choose another directory"
    elif any(each.mountpoint == mounted.mountpoint and each.state == "dead" for each in list_mounts()):
        return MountError(f"{shown} is a dead mount: clear it with `ocifs umount {shown}`, or mount with --replace")
    else:
        remedy = f"`ocifs umount {shown}` first, or use --replace"
    return MountError(f"{shown} is already a mountpoint ({mounted.fstype}): {remedy}")


def _check_visible(real: str, shown: str, keep_visible: Iterable[tuple[str, str]], cache: Path | None) -> None:
    for what, hidden in keep_visible:
        if real in steps(hidden):
            raise MountError(f"mountpoint {shown} would hide {what} {printable_path(hidden)}: choose another directory")
    if cache and is_below(real, real_mountpoint(str(cache))):
        raise MountError(f"mountpoint {shown} lies in the cache {printable_path(str(cache))}: choose another directory")


def _check_directory(real: str, shown: str) -> None:
    try:
        status = os.stat(real)
    except FileNotFoundError:
        raise MountError(f"mountpoint {shown} does not exist: make the directory first") from None
    except OSError as error:
        raise MountError(f"mountpoint {shown}: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise MountError(f"mountpoint {shown} is not a directory")
    try:
        with os.scandir(real) as entries:
            if next(entries, None) is not None:
                raise MountError(f"mountpoint {shown} is not empty: choose an empty directory")
    except PermissionError:
        raise MountError(f"mountpoint {shown} cannot be read: choose a directory of your own") from None
    if os.geteuid() and not os.access(real, os.W_OK):
        raise MountError(
            f"mountpoint {shown} belongs to uid {status.st_uid} and cannot be written: "
            "fusermount3 mounts only on directories of your own"
        )


def check_fuse() -> None:
    """Check that this user can mount with FUSE. Raises MountError."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise MountError("/dev/fuse is missing: load the kernel module with `modprobe fuse`") from None
    except OSError as error:
        raise MountError(f"/dev/fuse: {error.strerror}: set its mode to 0666, as udev does") from None
    if os.geteuid() and shutil.which("fusermount3") is None:
        raise MountError("fusermount3 is missing: install the Debian package fuse3")
