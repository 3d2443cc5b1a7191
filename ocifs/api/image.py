"""An opened image, with paths and mounts."""

import os
from typing import TYPE_CHECKING

from ocifs.api.path import ImagePath, Segment
from ocifs.image import opening
from ocifs.options import Options
from ocifs.sources.reference import Reference

if TYPE_CHECKING:
    from ocifs.api.mounting import Mount
    from ocifs.mount.options import MountOptions


class Image(opening.Image):
    """An opened image: a context manager that owns its files.

    `image / "etc/passwd"` is a path inside it. Several threads may use one image, its paths and its open files at the
    same time, except that an open file has one position. `close` the image when no thread uses it any more: later uses
    raise ValueError.
    """

    @property
    def root(self) -> ImagePath:
        """The root directory."""
        return ImagePath(self.rootfs)

    def __truediv__(self, path: Segment) -> ImagePath:
        """Return a path inside the image."""
        return ImagePath(self.rootfs, path)

    def at_layer(self, layer: int) -> ImagePath:
        """Return the root directory as of `layer`; 0 is the base layer, -1 the last one.

        Raises:
            NotFoundError: There is no such layer.
        """
        return ImagePath(self.as_of(layer))

    def mount(self, mountpoint: str | os.PathLike[str], options: "MountOptions | None" = None) -> "Mount":
        """Mount the image read-only on an existing empty directory.

        As a context manager, the result yields the mountpoint as a `pathlib.Path`, and unmounts at the end. The mount
        does not depend on this process, nor on this object: either may end earlier.

        Raises:
            MountError: The directory or the system does not allow it; nothing is left behind.
        """
        from ocifs.api.mounting import mount_image

        return mount_image(self, mountpoint, options)


def open_image(reference: str | os.PathLike[str] | Reference, options: Options | None = None) -> Image:
    """Open an image by reference, such as `./debian:latest`, `oci-archive:image.tar` or `docker://HOST/REPOSITORY:TAG`.

    The image is indexed, or its index is loaded from `options.store`, so every fault of the image raises here.

    Raises:
        NotFoundError: The reference names nothing, or more than one image.
        InvalidImageError: The image does not match its digests, or violates the specification.
        UnsupportedError, LimitError: It contains something that ocifs does not handle, or too much.
        RegistryError: Its registry cannot be reached, or refuses access.
    """
    return Image.open(reference, options)
