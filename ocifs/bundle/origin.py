"""The file `ocifs.json` in a bundle: its images and kind of rootfs, for mounting it again. Runtimes ignore it."""

from typing import Literal, Self

import msgspec

from ocifs.errors import MountError, NotFoundError, printable_path
from ocifs.trusted_directory import TrustedDirectory

RootfsKind = Literal["mount", "overlay", "tmpfs", "copy"]
"""Kind of rootfs: the image itself, writable with writes kept or discarded, or copied."""

_NAME = "ocifs.json"
_MAX = 64 << 10


class BundleOrigin(msgspec.Struct, frozen=True):
    """The images and the kind of rootfs that a bundle was made with."""

    digest: str
    """Digest of the manifest."""
    rootfs: RootfsKind
    images: tuple[tuple[str, str], ...] = ()
    """Reference and digest of each image in `images/N`."""

    def write(self, bundle: TrustedDirectory) -> None:
        """Write the file."""
        bundle.write_file(_NAME, msgspec.json.encode(self) + b"\n")

    @classmethod
    def read(cls, bundle: TrustedDirectory) -> Self:
        """Read the file.

        Raises:
            NotFoundError: `ocifs bundle` did not make the directory.
            MountError: The file cannot be read.
        """
        try:
            return msgspec.json.decode(bundle.read_file(_NAME, _MAX), type=cls)
        except FileNotFoundError:
            raise NotFoundError(f"{printable_path(str(bundle.path))} was not made by `ocifs bundle`") from None
        except (OSError, msgspec.MsgspecError):
            raise MountError(f"{printable_path(str(bundle.path / _NAME))} cannot be read: make a new bundle") from None
