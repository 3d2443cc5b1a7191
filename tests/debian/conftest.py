"""The real image of three layers that scripts/make-debian-image makes, and what `umoci unpack` makes of it."""

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.debian.view import view

_MOUNTS = [("base", "fuse"), ("tools", "erofs"), ("latest", "fuse"), ("latest", "erofs")]
"""(tag, engine)."""

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
"""That of the user, which tests do not see once they run."""

_TOOLS = ("rsync", "skopeo", "zstd", "pigz", "bgzip")


@pytest.fixture(scope="session")
def debian(fuse: None) -> Path:
    """Return the layout; skip where it or a program that compares it is missing."""
    layout = Path(os.environ.get("OCIFS_DEBIAN_IMAGE") or _CACHE / "ocifs-tests/debian")
    if not (layout / "complete").exists():
        pytest.skip(f"{layout} is missing: make it with scripts/make-debian-image (root, debootstrap, umoci)")
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        pytest.skip(f"missing: {', '.join(missing)}")
    return layout


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
