"""The volumes of an image (`Config.Volumes`): where they are, and what stands in for them in a container.

As in podman and Docker, a volume can be written, and begins with the owner, mode and content of the image's directory;
one that the image does not have begins empty and belongs to root. In a rootfs that can be written the directory itself
is all that, so it is only made if it is missing. In a read-only rootfs each volume is a directory `volumes/N` of the
bundle, a copy that the runtime binds to its place. This module plans; it writes nothing.
"""

import stat
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ocifs.bundle.mount_destinations import directories_of, names_of
from ocifs.bundle.paths import absolute_path
from ocifs.bundle.runtime_spec import Mount
from ocifs.errors import UnsupportedError
from ocifs.image.rootfs import Rootfs
from ocifs.limits import Limits
from ocifs.spec.document import shown

_OF_THE_RUNTIME = ("/proc", "/dev", "/sys")
_OPTIONS = ("rbind", "rprivate", "rw", "nosuid", "nodev")
"""Those of podman's volumes."""


class Volume(NamedTuple):
    """A place in the container, normalised."""

    destination: str
    names: list[bytes]
    """The same with the image's symlinks resolved."""
    exists: bool
    """Whether it is a directory of the image."""


class Volumes(NamedTuple):
    """What is to be done for the volumes of a container."""

    copied: tuple[Volume, ...] = ()
    """To be made in the bundle and mounted, in this order."""
    missing: tuple[Volume, ...] = ()
    """Directories to be made in the rootfs."""

    def mounts(self) -> tuple[Mount, ...]:
        """Return what the runtime mounts; `source` is relative to the bundle."""
        return tuple(
            Mount(destination=volume.destination, type="bind", source=source, options=_OPTIONS)
            for volume, source in self.sources()
        )

    def sources(self) -> Iterable[tuple[Volume, str]]:
        """Yield each volume to be mounted with its path relative to the bundle."""
        for number, volume in enumerate(self.copied):
            yield volume, f"volumes/{number}"


def find_volumes(
    paths: Iterable[str], rootfs: Rootfs, limits: Limits, warn: Callable[[str], None], *, readonly: bool
) -> Volumes:
    """Return what the volumes of an image need in a rootfs of its own; `warn` is called for those that are skipped.

    Raises:
        UnsupportedError: A volume is not a directory, or cannot be mounted because it lies behind a symlink.
        InvalidImageError: A path holds a NUL character.
        LimitError: There are too many, or their content is too large.
    """
    volumes = _volumes(paths, rootfs, warn)
    if len(volumes) > limits.volumes:
        raise limits.passed("volumes", f"the image has {len(volumes)} volumes")
    if not readonly:
        return Volumes(missing=tuple(volume for volume in volumes if not volume.exists))
    copied: list[Volume] = []
    for volume in volumes:
        if volume.exists and any(volume.destination.startswith(f"{each.destination}/") for each in copied):
            continue  # it is part of the copy
        if volume.exists and volume.names != names_of(volume.destination):
            raise UnsupportedError(
                f"volume {shown(volume.destination)} lies behind a symlink of the image, where a runtime cannot safely "
                "mount: use --rootfs overlay or tmpfs"
            )
        copied.append(volume)
    _check_size(copied, rootfs, limits)
    return Volumes(copied=tuple(copied))


def _volumes(paths: Iterable[str], rootfs: Rootfs, warn: Callable[[str], None]) -> list[Volume]:
    volumes = []
    for destination in sorted({absolute_path(path, "volume", warn) for path in paths}, key=names_of):
        if destination == "/":
            warn("volume / is skipped: it would hide the whole image")
        elif any(destination == each or destination.startswith(f"{each}/") for each in _OF_THE_RUNTIME):
            warn(f"volume {shown(destination)} is skipped: the runtime mounts a file system of its own there")
        else:
            volumes.append(_volume(destination, rootfs))
    return volumes


def _volume(destination: str, rootfs: Rootfs) -> Volume:
    names = rootfs.canonical(f"{destination}/.".encode())
    count, obstacle = directories_of(rootfs, names)
    if obstacle is not None:
        raise UnsupportedError(f"volume {shown(destination)} is not a directory in the image: build the image with one")
    return Volume(destination, names, count == len(names))


def _check_size(volumes: Iterable[Volume], rootfs: Rootfs, limits: Limits) -> None:
    """Raise LimitError if the files to be copied have more bytes than `volume_size`; holes take no room."""
    size = 0
    linked = set()
    for volume in volumes:
        if not volume.exists:
            continue
        for _, inode in rootfs.walk(volume.destination):
            if not stat.S_ISREG(inode.mode) or inode.nid in linked:
                continue
            if inode.nlink > 1:
                linked.add(inode.nid)
            size += sum(length for address, length in rootfs.tree.extents_of(inode) if address is not None)
            if size > limits.volume_size:
                raise limits.passed("volume_size", "the files to be copied from the image's volumes have more bytes")
