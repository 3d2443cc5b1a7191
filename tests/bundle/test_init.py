"""An init that is installed, or the package that has one."""

from pathlib import Path

import pytest

from ocifs.bundle.init import find_init
from ocifs.errors import NotFoundError


def test_the_first_known_one_is_taken(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="install the Debian package catatonit or tini"):
        find_init((str(tmp_path),))
    for name in ("tini", "tini-static", "catatonit"):
        (tmp_path / name).touch(mode=0o755)
        expected = {"tini": None}.get(name, name)
        if expected:
            assert find_init((str(tmp_path),)) == str(tmp_path / expected)
