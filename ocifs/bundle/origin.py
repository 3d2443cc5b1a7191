"""What a bundle was made of, so that it can be mounted again: the file `ocifs.json` in it, which runtimes ignore."""

from pathlib import Path
from typing import Literal, Self

import msgspec

from ocifs.errors import MountError, NotFoundError, printable_path

_NAME = "ocifs.json"


class Origin(msgspec.Struct, frozen=True):
    """Of which image, and how."""

    digest: str
    """Of the manifest."""
    rootfs: Literal["mount", "overlay", "tmpfs", "copy"]

    def write(self, bundle: Path) -> None:
        """Record it in a bundle."""
        (bundle / _NAME).write_bytes(msgspec.json.encode(self) + b"\n")

    @classmethod
    def read(cls, bundle: Path) -> Self:
        """Return what a bundle was made of.

        Raises:
            NotFoundError: It is no bundle that `ocifs bundle` has made.
            MountError: The record cannot be read.
        """
        path = bundle / _NAME
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"{printable_path(str(bundle))} is no bundle that `ocifs bundle` has made") from None
        except (OSError, msgspec.MsgspecError):
            raise MountError(f"{printable_path(str(path))} cannot be read: make a new bundle") from None
