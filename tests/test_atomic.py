import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocifs.atomic import atomic_file


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_a_file_is_replaced_when_it_is_complete(parent: int, tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with atomic_file(parent, "file", 0o600) as file:
        file.write(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_a_failure_leaves_the_old_file(parent: int, tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(UnicodeEncodeError), atomic_file(parent, "file") as file:
        file.write("new\udc80".encode())
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_directory_is_not_replaced(parent: int, tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError), atomic_file(parent, "file") as file:
        file.write(b"new")
    assert os.listdir(tmp_path) == ["file"]
