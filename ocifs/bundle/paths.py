"""Paths in an image's config."""

import os
from collections.abc import Callable

from ocifs.errors import InvalidImageError
from ocifs.spec.document import shown


def absolute_path(path: str, what: str, warn: Callable[[str], None]) -> str:
    """Normalise a path, relative to the root. Call `warn` if it is relative or has `..`.

    `what` names the path in messages.

    Raises:
        InvalidImageError: It contains a NUL character.
    """
    if "\0" in path:
        raise InvalidImageError(f"{what} '{shown(path)}' contains a NUL character")
    normalised = "/" + os.path.normpath(f"/{path}").lstrip("/")
    if not path.startswith("/") or ".." in path.split("/"):
        warn(f"{what} '{shown(path)}' is not an absolute path without '..': using {shown(normalised)}")
    return normalised
