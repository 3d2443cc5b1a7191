"""A descriptor is closed at the end of its block, and not inherited."""

import os
from pathlib import Path

import pytest

from ocifs.descriptor import opened


@pytest.mark.parametrize("error", [None, ValueError("no")], ids=["success", "failure"])
def test_it_is_closed_at_the_end(tmp_path: Path, error: Exception | None) -> None:
    closed = -1
    try:
        with opened(tmp_path, os.O_RDONLY | os.O_DIRECTORY) as fd, opened(".", os.O_PATH, dir_fd=fd) as closed:
            assert os.path.samestat(os.fstat(closed), tmp_path.stat())
            assert not os.get_inheritable(closed)
            if error:
                raise error
    except ValueError:
        pass
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(closed)


def test_what_cannot_be_opened_raises_where_it_is_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), opened(tmp_path / "none", os.O_RDONLY):
        pytest.fail("the block runs")
