"""How much the kernel reads of a file system ahead of a sequential reader (sysfs, class bdi)."""

import contextlib
from pathlib import Path

_KIB = 1024
"""With 128 KiB, which is what FUSE asks for, there would be eight times as many requests."""


def raise_readahead(device: str) -> None:
    """Let the kernel read more ahead of the file system with the number `device`, where it lets itself be told."""
    with contextlib.suppress(OSError):
        Path(f"/sys/class/bdi/{device}/read_ahead_kb").write_text(str(_KIB))
