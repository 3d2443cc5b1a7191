"""Image configs (image-spec config.md; Docker's differ only in fields that are ignored here).

All members except `rootfs` are data for `history`, `inspect` and bundles; none of them affects how an image is read.
"""

from typing import Any, Literal

import msgspec

from ocifs.spec.digest import DiffID
from ocifs.spec.document import decode
from ocifs.spec.platform import Platform

_SETS = frozenset({"ExposedPorts", "Volumes"})
"""Members of `config` that are sets, Go's `map[string]struct{}`."""


class RootFS(msgspec.Struct, frozen=True):
    """The diff IDs of the layers, the base first."""

    type: Literal["layers"]
    diff_ids: tuple[DiffID, ...] = ()


class ExecutionParameters(msgspec.Struct, frozen=True, rename="pascal"):
    """Parameters of a container of the image; every member as written."""

    user: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    labels: dict[str, str] = {}
    exposed_ports: dict[str, Any] = {}
    """Keyed `PORT[/PROTOCOL]`; the values are empty objects."""
    volumes: dict[str, Any] = {}
    """Keyed by path; the values are empty objects."""
    stop_signal: str = ""


class History(msgspec.Struct, frozen=True):
    """One step of the build."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False
    """The step created no layer."""


class ImageConfig(msgspec.Struct, frozen=True):
    """The config of an image. Times are RFC 3339 text as written."""

    rootfs: RootFS
    os: str = ""
    architecture: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] = msgspec.field(default=(), name="os.features")
    created: str = ""
    author: str = ""
    config: ExecutionParameters = ExecutionParameters()
    history: tuple[History, ...] = ()

    @property
    def platform(self) -> Platform:
        """What the image was built for."""
        return Platform(self.os, self.architecture, self.variant)


def parse_config(data: bytes, name: str) -> ImageConfig:
    """Parse an image config; `name` names it in errors.

    Raises:
        InvalidImageError: It is malformed.
        LimitError: It is nested too deeply.
    """
    return decode(data, ImageConfig, name, sets=_SETS)
