"""The user's settings that override the image's config. Its own module, because it loads no other one."""

from collections.abc import Mapping

import msgspec


class Overrides(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the user that override the image's config; None or empty: use the image's."""

    args: tuple[str, ...] = ()
    """Words after the entrypoint, in place of Cmd."""
    entrypoint: tuple[str, ...] | None = None
    """An empty one clears the image's."""
    env: Mapping[str, str] = {}
    unset_env: tuple[str, ...] = ()
    """Variables of the image, and of every container, to leave out."""
    unset_all: bool = False
    """Leave out all of them."""
    user: str | None = None
    cwd: str | None = None
    hostname: str = "ocifs"
    terminal: bool = True
