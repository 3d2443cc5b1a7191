"""Mount OCI images lazily, or read them without a mount.

    with ocifs.open("./debian:latest") as image:
        (image / "etc/os-release").read_text()

The guide to the Python API is docs/api.md, its reference docs/api-reference.md.
"""

from ocifs.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:  # without an import of typing, which every command would wait for
    from ocifs.api.image import Image as Image
    from ocifs.api.image import open_image as open  # noqa: A004 - as in gzip.open
    from ocifs.api.image import open_image as open_image
    from ocifs.api.mounting import Mount as Mount
    from ocifs.api.path import ImagePath as ImagePath
    from ocifs.errors import OcifsError as OcifsError
    from ocifs.limits import Limits as Limits
    from ocifs.mount.options import MountOptions as MountOptions
    from ocifs.options import Options as Options
    from ocifs.store import Store as Store

__all__ = [
    "Image",
    "ImagePath",
    "Limits",
    "Mount",
    "MountOptions",
    "OcifsError",
    "Options",
    "Store",
    "__version__",
    "open",
    "open_image",
]

_HOMES = {
    "Image": ("ocifs.api.image", "Image"),
    "ImagePath": ("ocifs.api.path", "ImagePath"),
    "Limits": ("ocifs.limits", "Limits"),
    "Mount": ("ocifs.api.mounting", "Mount"),
    "MountOptions": ("ocifs.mount.options", "MountOptions"),
    "OcifsError": ("ocifs.errors", "OcifsError"),
    "Options": ("ocifs.options", "Options"),
    "Store": ("ocifs.store", "Store"),
    "open": ("ocifs.api.image", "open_image"),
    "open_image": ("ocifs.api.image", "open_image"),
}


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that each command and the daemon load only what they need."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ocifs' has no attribute {name!r}")
    import importlib

    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)
