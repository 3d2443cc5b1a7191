"""EROFS files mounted by the kernel."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_MS_RDONLY, _MNT_DETACH = 1, 2


@contextmanager
def mounted(served: Path, where: Path) -> Iterator[bytes]:
    if os.geteuid() != 0:
        pytest.skip("mounting EROFS needs root")
    libc = ctypes.CDLL(None, use_errno=True)
    where.mkdir()
    if libc.mount(bytes(served), bytes(where), b"erofs", _MS_RDONLY, None) != 0:
        pytest.skip(f"the kernel refuses to mount: {os.strerror(ctypes.get_errno())}")
    try:
        yield bytes(where)
    finally:
        assert libc.umount2(bytes(where), _MNT_DETACH) == 0
