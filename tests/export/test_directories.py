"""A cursor that moves through directories returns only to those from which it came."""

import errno
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ocifs.export.directories import Cursor, DirectoryTable


@pytest.fixture
def cursor(tmp_path: Path) -> Iterator[tuple[Path, Cursor]]:
    """A cursor in `top`, where number 1 is `a` and number 2 is `a/b`."""
    top = tmp_path / "top"
    (top / "a/b").mkdir(parents=True)
    directories = DirectoryTable(0)
    directories.add(0, b"b", directories.add(0, b"a", 0))
    fd = os.open(top, os.O_RDONLY)
    with closing(Cursor(directories, fd)) as made:
        yield top, made
    os.close(fd)


def here(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


def test_it_moves_down_and_up(cursor: tuple[Path, Cursor]) -> None:
    top, moving = cursor
    visits = [(2, top / "a/b"), (1, top / "a"), (2, top / "a/b"), (0, top)]
    assert [here(moving.at(number)) for number, _ in visits] == [str(path) for _, path in visits]


def test_it_stops_if_another_process_moves_its_directory(cursor: tuple[Path, Cursor], tmp_path: Path) -> None:
    top, moving = cursor
    moving.at(2)
    (tmp_path / "elsewhere").mkdir()
    (top / "a/b").rename(tmp_path / "elsewhere/b")
    with pytest.raises(OSError, match="another process moves its directories") as caught:
        moving.at(1)
    assert caught.value.errno == errno.ESTALE


def test_it_follows_no_symlink(cursor: tuple[Path, Cursor], tmp_path: Path) -> None:
    top, moving = cursor
    (top / "a").rename(tmp_path / "moved")
    (top / "a").symlink_to(tmp_path / "moved")
    with pytest.raises(NotADirectoryError):
        moving.at(1)
