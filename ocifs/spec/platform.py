"""Platforms: what an image was built for, and which of several images suits a machine.

The names are Go's (image-spec image-index.md, `platform`). Aliases and fallbacks are containerd's
(containerd/platforms, `database.go` and `compare.go`): arm64 is arm64/v8, arm is arm/v7, and an arm or amd64 machine
runs images for its earlier variants. os.version and os.features are ignored.
"""

import re
from collections.abc import Sequence
from typing import Self

import msgspec

from ocifs.errors import NotFoundError
from ocifs.spec.document import shown

_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "i386": "386",
    "i486": "386",
    "i586": "386",
    "i686": "386",
    "aarch64": "arm64",
    "armhf": "arm/v7",
    "armv8l": "arm/v7",
    "armv7l": "arm/v7",
    "armel": "arm/v6",
    "armv6l": "arm/v6",
    "armv5tel": "arm/v5",
    "loongarch64": "loong64",
}
_DEFAULT_VARIANTS = {"arm64": "v8", "arm": "v7", "amd64": "v1"}
_VARIANT = re.compile(r"v[1-9]")
_PART = re.compile(r"[A-Za-z0-9_.-]+")


class Platform(msgspec.Struct, frozen=True):
    """A platform as written; `str()` returns `OS/ARCH[/VARIANT]`."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `OS/ARCH[/VARIANT]`.

        Raises:
            NotFoundError: The text is malformed.
        """
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(_PART.fullmatch(part) for part in parts):
            raise NotFoundError(f"malformed platform '{shown(text)}': write OS/ARCH[/VARIANT], e.g. linux/arm64")
        return cls(*parts)

    @classmethod
    def of_machine(cls, machine: str) -> Self:
        """Return the platform of a Linux machine from the output of `uname -m`."""
        architecture, _, variant = _ARCHITECTURES.get(machine, machine).partition("/")
        return cls("linux", architecture, variant)

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os or "unknown", self.architecture or "unknown", self.variant)))

    def normalized(self) -> "Platform":
        """Return the platform without aliases and with an explicit variant."""
        architecture = self.architecture.lower()
        architecture, _, implied = _ARCHITECTURES.get(architecture, architecture).partition("/")
        variant = self.variant.lower() or implied or _DEFAULT_VARIANTS.get(architecture, "")
        if variant.isdecimal():
            variant = f"v{variant}"
        return Platform(self.os.lower(), architecture, variant)

    def accepted(self) -> tuple["Platform", ...]:
        """Return the normalized platforms whose images run on this one, the best first."""
        best = self.normalized()
        if best.architecture not in _DEFAULT_VARIANTS or not _VARIANT.fullmatch(best.variant):
            return (best,)
        lowest = {"arm": 5, "arm64": 8}.get(best.architecture, 1)
        variants = range(int(best.variant[1:]), lowest - 1, -1)
        return tuple(Platform(best.os, best.architecture, f"v{n}") for n in variants) or (best,)


def best_match(platform: Platform, available: Sequence[Platform]) -> int | None:
    """Return the position of the available platform that suits `platform` best, the first of equals; or None."""
    normalized = [each.normalized() for each in available]
    return next((normalized.index(each) for each in platform.accepted() if each in normalized), None)
