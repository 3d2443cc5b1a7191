"""A descriptor is closed at the end of its block, and not inherited; and a file is read without waiting."""

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from ocifs.descriptor import opened, read_at_once


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


def _bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


_KINDS: dict[str, tuple[Callable[[Path], object], bytes | int]] = {
    "a file": (lambda path: path.write_bytes(b"12345"), b"12345"),
    "a larger file": (lambda path: path.write_bytes(b"123456"), errno.EFBIG),
    "nothing": (lambda path: path.symlink_to("/dev/null"), b""),
    "without an end": (lambda path: path.symlink_to("/dev/zero"), errno.EFBIG),
    "a FIFO without a writer": (os.mkfifo, errno.EINVAL),
    "a socket": (_bind, errno.ENXIO),
    "a directory": (Path.mkdir, errno.EISDIR),
}


@pytest.mark.parametrize("kind", _KINDS)
def test_what_is_read_at_once(tmp_path: Path, kind: str) -> None:
    make, expected = _KINDS[kind]
    make(tmp_path / "it")
    if isinstance(expected, bytes):
        assert read_at_once(tmp_path / "it", 5) == expected
    else:
        with pytest.raises(OSError, match=r".") as caught:
            read_at_once(tmp_path / "it", 5)
        assert caught.value.errno == expected
