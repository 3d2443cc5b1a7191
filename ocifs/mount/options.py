"""Options for serving a mount: every choice of the user, as one value that travels to the daemon."""

from typing import Literal

import msgspec

from ocifs.layer.span_cache import DEFAULT_CAPACITY

EngineChoice = Literal["auto", "erofs", "fuse"]

DEFAULT_HOT_PACK = 64 << 20
"""Bytes."""


class MountOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to serve a mount; the defaults are the safest choices."""

    engine: EngineChoice = "auto"
    """`auto`: erofs if this process may and the kernel can, else fuse."""
    span_cache: int = DEFAULT_CAPACITY
    """Most bytes of decoded spans in memory."""
    read_timeout: float = 60
    """Seconds that a read may take; it then fails with EIO."""
    log: str | None = None
    """Absolute path of the log file; None: stderr of the daemon."""
    prefetch: bool = True
    """Whether to fetch missing spans in the background, and to verify published indexes."""
    prefetch_rate: int | None = None
    """Limit for that in bytes per second; None: unlimited."""
    hot_pack: int = DEFAULT_HOT_PACK
    """Most decoded bytes of the image's hot pack; 0: neither use nor record one."""
    allow_other: bool = False
    """Whether other users may access the mount."""
    suid: bool = False
    """Whether setuid, setgid and file capabilities have effect."""
    dev: bool = False
    """Whether device nodes have effect."""
    exec: bool = True
    """Whether programs may be executed."""
    service: bool = True
    """Whether the service of root may serve the mount, if it runs."""
    survive: bool = False
    """Whether the mount gets a keeper of its own, which replaces its daemon when that dies."""
    replace: bool = False
    """Whether to unmount what ocifs has mounted there first."""
