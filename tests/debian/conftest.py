"""The real image of three layers that scripts/make-debian-image makes, and what `umoci unpack` makes of it."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.debian.view import view

_MOUNTS = [("base", "fuse"), ("tools", "erofs"), ("latest", "fuse"), ("latest", "erofs")]
"""(tag, engine)."""


@pytest.fixture(scope="session")
def unpacked(debian: Path) -> Callable[[str], frozenset[bytes]]:
    """Return the view of what umoci made of a tag."""
    return functools.cache(lambda tag: view(debian / f"bundle-{tag}/rootfs"))


@pytest.fixture(scope="session", params=_MOUNTS, ids="-".join)
def mounted(
    request: pytest.FixtureRequest, session_ocifs: Ocifs, debian: Path, root: None
) -> Iterator[tuple[str, Path]]:
    """Return a tag, and where it is mounted."""
    tag, engine = request.param
    request.getfixturevalue(engine)
    with session_ocifs.mounted(f"{debian}:{tag}", "--engine", engine) as mountpoint:
        yield tag, mountpoint
