"""Plan the volumes of an image (`Config.Volumes`) in a container. This module writes nothing.

As in podman and Docker, a volume is writable and starts with the owner, mode and content of the image's directory; if
the image lacks the directory, it starts empty and belongs to root. In a writable rootfs the directory itself serves as
the volume, and is made if it is missing. In a read-only rootfs each volume is a copy in the directory `volumes/N` of
the bundle, and the runtime binds it to its destination.
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
"""Mount options, as podman's volumes have."""


class Volume(NamedTuple):
    """Normalised path in the container."""

    destination: str
    names: list[bytes]
    """Its components with the image's symlinks resolved."""
    exists: bool
    """Whether the image has the directory."""


class Volumes(NamedTuple):
    """The volumes of a container, by how they are made."""

    copied: tuple[Volume, ...] = ()
    """Volumes to make in the bundle and mount, in this order."""
    missing: tuple[Volume, ...] = ()
    """Directories to make in the rootfs."""

    def mounts(self) -> tuple[Mount, ...]:
        """Return the mounts for config.json; `source` is relative to the bundle."""
        return tuple(
            Mount(destination=volume.destination, type="bind", source=source, options=_OPTIONS)
            for volume, source in self.sources()
        )

    def sources(self) -> Iterable[tuple[Volume, str]]:
        """Yield each copied volume with its path relative to the bundle."""
        for number, volume in enumerate(self.copied):
            yield volume, f"volumes/{number}"


def find_volumes(
    paths: Iterable[str], rootfs: Rootfs, limits: Limits, warn: Callable[[str], None], *, readonly: bool
) -> Volumes:
    """Plan the volumes of an image. Call `warn` for each volume that is skipped.

    Raises:
        UnsupportedError: A volume is not a directory, or has to be mounted but lies behind a symlink.
        InvalidImageError: A path contains a NUL character.
        LimitError: There are too many volumes, or their content is too large.
    """
    volumes = _volumes(paths, rootfs, warn)
    if len(volumes) > limits.volumes:
        raise limits.passed("volumes", f"the image has {len(volumes)} volumes")
    if not readonly:
        return Volumes(missing=tuple(volume for volume in volumes if not volume.exists))
    copied: list[Volume] = []
    for volume in volumes:
        if volume.exists and any(volume.destination.startswith(f"{each.destination}/") for each in copied):
            continue  # the copy of its ancestor contains it
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
    """Raise LimitError if the files to copy have more bytes than `volume_size`, not counting holes."""
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
