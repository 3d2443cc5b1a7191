"""What a bundle was made of, so that it can be mounted again: the file `ocifs.json` in it, which runtimes ignore."""

from typing import Literal, Self

import msgspec

from ocifs.errors import MountError, NotFoundError, printable_path
from ocifs.trusted_directory import TrustedDirectory

_NAME = "ocifs.json"
_MAX = 4096


class BundleOrigin(msgspec.Struct, frozen=True):
    """Of which image, and how."""

    digest: str
    """Of the manifest."""
    rootfs: Literal["mount", "overlay", "tmpfs", "copy"]

    def write(self, bundle: TrustedDirectory) -> None:
        """Record it in a bundle."""
        bundle.write_file(_NAME, msgspec.json.encode(self) + b"\n")

    @classmethod
    def read(cls, bundle: TrustedDirectory) -> Self:
        """Return what a bundle was made of.

        Raises:
            NotFoundError: It is no bundle that `ocifs bundle` has made.
            MountError: The record cannot be read.
        """
        try:
            return msgspec.json.decode(bundle.read_file(_NAME, _MAX), type=cls)
        except FileNotFoundError:
            raise NotFoundError(
                f"{printable_path(str(bundle.path))} is no bundle that `ocifs bundle` has made"
            ) from None
        except (OSError, msgspec.MsgspecError):
            raise MountError(f"{printable_path(str(bundle.path / _NAME))} cannot be read: make a new bundle") from None
