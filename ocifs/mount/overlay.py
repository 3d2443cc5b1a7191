"""The mounts of a bundle: a writable rootfs over a mounted image.

    rootfs/               the image, or an overlay of the following (overlayfs)
    lower/                the image
    upper/  work/         writes that are kept
    tmpfs/upper  .../work writes that are discarded; for root a tmpfs
    images/N              other images, which the runtime binds into the container

The kernel and fuse-overlayfs get paths relative to the bundle, so that no name in them needs escaping. The bundle is a
`TrustedDirectory`: no other user can reach a setuid file of the image, or replace what is removed.
"""

import contextlib
import errno
import os
import shutil
import subprocess
from pathlib import Path

from ocifs.errors import MountError, printable_path
from ocifs.mount import syscalls
from ocifs.mount.mountinfo import MountEntry, mount_table, unmount
from ocifs.trusted_directory import TrustedDirectory

_IMAGES = "images"
_SOURCE = "ocifs"
_SOURCES = {_SOURCE, "fuse-overlayfs"}
"""Sources of the mounts made here, as in the mount table; the source of fuse-overlayfs cannot be set."""


def open_bundle(path: str) -> TrustedDirectory:
    """Open a bundle that this user owns. Raises MountError."""
    try:
        return TrustedDirectory.open(Path(path))
    except OSError as error:
        raise untrusted(path, error) from None


def untrusted(path: str, error: OSError) -> MountError:
    """Return the error for a bundle, or its parent, that `TrustedDirectory` refuses."""
    advice = ": choose a directory that no other user can write to or rename" if error.errno == errno.EPERM else ""
    return MountError(f"{printable_path(path)}: {error.strerror}{advice}")


def make_directories(bundle: TrustedDirectory, *, overlay: bool, tmpfs: bool) -> None:
    """Make the missing mountpoints of a bundle: of its rootfs, an `overlay` on the image, which a `tmpfs` may hold."""
    for name in ("rootfs", *(["lower"] if overlay else []), *(["tmpfs"] if tmpfs else [])):
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=bundle.fd)


def image_mountpoint(bundle: Path) -> Path:
    """Return the mountpoint of the image in a bundle."""
    lower = bundle / "lower"
    return lower if lower.exists() else bundle / "rootfs"


def other_mountpoint(bundle: Path, number: int) -> Path:
    """Return the mountpoint of another image in a bundle, numbered from 0."""
    return bundle / _IMAGES / str(number)


def mount_overlay(bundle: Path) -> None:
    """Mount `rootfs` as an overlay on the image that is mounted on `lower`. Raises MountError."""
    upper = "tmpfs/" if (bundle / "tmpfs").exists() else ""
    if upper and os.geteuid() == 0:
        _attach("tmpfs", {"mode": "0700"}, bundle, "tmpfs")
    (bundle / upper / "work").mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):  # writes of an earlier mount are kept
        (bundle / upper / "upper").mkdir()
        _copy_attributes(bundle / "lower", bundle / upper / "upper")
    options = {"lowerdir": "lower", "upperdir": f"{upper}upper", "workdir": f"{upper}work"}
    if os.geteuid() == 0:
        _attach("overlay", options, bundle, "rootfs")
    else:
        _run_fuse_overlayfs(options, bundle)


def mounts_of_bundle(bundle: str) -> list[MountEntry]:
    """Return the mounts of ocifs in a bundle, in mount order."""
    mountpoints = {os.path.join(bundle, name) for name in ("rootfs", "lower", "tmpfs")}
    images = os.path.join(bundle, _IMAGES)
    return [
        mount
        for mount in mount_table()
        if (mount.mountpoint in mountpoints and (mount.digest is not None or mount.source in _SOURCES))
        or (os.path.dirname(mount.mountpoint) == images and mount.digest is not None)
    ]


def unmount_overlay(bundle: str, *, lazy: bool) -> bool:
    """Unmount everything but images, and remove discarded writes. Raises MountError.

    Return whether fuse-overlayfs served the overlay: it exits, and leaves the image, only after the unmounting.
    """
    overlays = [mount for mount in reversed(mounts_of_bundle(bundle)) if mount.digest is None]
    for mount in overlays:
        unmount(mount.mountpoint, lazy=lazy)
    if os.path.lexists(os.path.join(bundle, "tmpfs")):
        remove_tree(open_bundle(bundle), "tmpfs")
    return any(mount.source != _SOURCE for mount in overlays)


def remove_tree(parent: TrustedDirectory, name: str) -> None:
    """Remove a directory with everything that containers have left in it, at any depth, except mounted file systems.

    Raises:
        MountError: Something could not be removed.
    """
    directory = f"/proc/self/fd/{parent.fd}"  # so that only `name` is looked up, in `parent`
    if os.geteuid():
        closed = ["find", f"./{name}", "-xdev", "-type", "d", "!", "-perm", "-u=rwx"]
        subprocess.run([*closed, "-exec", "chmod", "u+rwx", "{}", ";"], cwd=directory, check=False, capture_output=True)
    run = subprocess.run(
        ["rm", "-rf", "--one-file-system", "--", name], cwd=directory, check=False, capture_output=True, text=True
    )
    if run.returncode:
        why = run.stderr.strip().rpartition(": ")[2]
        raise MountError(f"cannot remove {printable_path(str(parent.path / name))}: {why}")


def _attach(fstype: str, options: dict[str, str], bundle: Path, name: str) -> None:
    try:
        with contextlib.chdir(bundle):
            mount = syscalls.new_mount(fstype, {"source": _SOURCE} | options, syscalls.MOUNT_ATTR_NODEV)
            try:
                syscalls.attach(mount, name)
            finally:
                os.close(mount)
    except OSError as error:
        raise MountError(f"cannot mount {fstype} on {printable_path(str(bundle / name))}: {error.strerror}") from None


def _run_fuse_overlayfs(options: dict[str, str], bundle: Path) -> None:
    if (program := shutil.which("fuse-overlayfs")) is None:
        raise MountError(
            "fuse-overlayfs is missing, and an ordinary user needs it for a writable rootfs: "
            "install the Debian package fuse-overlayfs, or use --read-only"
        )
    joined = ",".join(f"{name}={value}" for name, value in options.items())
    run = subprocess.run([program, "-o", joined, "rootfs"], cwd=bundle, check=False, capture_output=True, text=True)
    if run.returncode:
        message = printable_path(run.stderr.strip().rpartition("\n")[2])
        raise MountError(f"cannot mount on {printable_path(str(bundle / 'rootfs'))}: {message}")


def _copy_attributes(source: Path, target: Path) -> None:
    """Copy the attributes that the overlay will show for its root to the upper directory."""
    status = source.stat()
    if os.geteuid() == 0:
        os.chown(target, status.st_uid, status.st_gid)
    shutil.copystat(source, target)
