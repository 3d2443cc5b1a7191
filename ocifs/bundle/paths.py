"""Paths in a container as an image's config writes them."""

import os
from collections.abc import Callable

from ocifs.errors import InvalidImageError
from ocifs.spec.document import shown


def absolute_path(path: str, what: str, warn: Callable[[str], None]) -> str:
    """Return a path normalised; `warn` is called for one that is relative or has `..`, which is taken from the root.

    `what` is what messages call it.

    Raises:
        InvalidImageError: It holds a NUL character.
    """
    if "\0" in path:
        raise InvalidImageError(f"{what} '{shown(path)}' holds a NUL character")
    normalised = "/" + os.path.normpath(f"/{path}").lstrip("/")
    if not path.startswith("/") or ".." in path.split("/"):
        warn(f"{what} '{shown(path)}' is not an absolute path without '..': {shown(normalised)} is used")
    return normalised
