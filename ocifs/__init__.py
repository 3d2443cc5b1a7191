"""Mount OCI images lazily, or read them without a mount.

    with ocifs.open_image("./debian:latest") as image:
        image.rootfs.open("/etc/os-release").read()

The guide to the Python API is docs/api.md.
"""

from typing import TYPE_CHECKING

from ocifs.version import __version__

if TYPE_CHECKING:
    from ocifs.errors import OcifsError as OcifsError
    from ocifs.image.opening import Image as Image
    from ocifs.image.opening import open_image as open_image
    from ocifs.limits import Limits as Limits
    from ocifs.options import Options as Options
    from ocifs.store import Store as Store

__all__ = ["Image", "Limits", "OcifsError", "Options", "Store", "__version__", "open_image"]

_HOMES = {
    "Image": "ocifs.image.opening",
    "Limits": "ocifs.limits",
    "OcifsError": "ocifs.errors",
    "Options": "ocifs.options",
    "Store": "ocifs.store",
    "open_image": "ocifs.image.opening",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that each command and the daemon load only what they need."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ocifs' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
