"""Paths and other text for config.json."""

import os
from collections.abc import Callable

from ocifs.errors import InvalidImageError, printable_path
from ocifs.spec.document import shown


def check_utf8(text: str) -> None:
    """Raise ValueError for text that config.json cannot hold, such as a path with other bytes (surrogates)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{printable_path(text)} is not UTF-8, so config.json cannot hold it") from None


def normalised(path: str) -> str:
    """Return an absolute path without `.`, `..` and repeated slashes; a relative one begins at the root."""
    return "/" + os.path.normpath(f"/{path}").lstrip("/")


def absolute_path(path: str, what: str, warn: Callable[[str], None]) -> str:
    """Normalise a path, relative to the root. Call `warn` if it is relative or has `..`.

    `what` names the path in messages.

    Raises:
        InvalidImageError: It contains a NUL character.
    """
    if "\0" in path:
        raise InvalidImageError(f"{what} '{shown(path)}' contains a NUL character")
    if not path.startswith("/") or ".." in path.split("/"):
        warn(f"{what} '{shown(path)}' is not an absolute path without '..': using {shown(normalised(path))}")
    return normalised(path)
