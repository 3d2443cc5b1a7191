"""readdir(3) and its lower half: whole, in any piece, from any place."""

import ctypes
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from tests.mounted.posix_image import WIDE

_libc = ctypes.CDLL(None, use_errno=True)
_NAMES = [b"%05d" % number for number in range(WIDE)]


class Entry(NamedTuple):
    """A `struct linux_dirent64`, getdents(2)."""

    inode: int
    next: int
    type: int
    name: bytes


@contextmanager
def opened(*path: bytes) -> Iterator[int]:
    fd = os.open(os.path.join(*path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def getdents(fd: int, size: int = 32768) -> list[Entry]:
    buffer = ctypes.create_string_buffer(size)
    length = _libc.getdents64(fd, buffer, size)
    if length < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    found, at = [], 0
    while at < length:
        inode, following, record, kind = struct.unpack_from("<QqHB", buffer, at)
        found.append(Entry(inode, following, kind, buffer.raw[at + 19 : at + record].split(b"\0")[0]))
        at += record
    return found


def rest(fd: int, size: int = 32768) -> list[Entry]:
    found = []
    while entries := getdents(fd, size):
        found += entries
    return found


@pytest.mark.parametrize("size", [32, 100, 4096, 1 << 20])
def test_a_wide_directory_is_whole_through_a_buffer_of_any_size(posix: bytes, size: int) -> None:
    with opened(posix, b"wide") as fd:
        names = [entry.name for entry in rest(fd, size)]
    assert sorted(names) == [b".", b"..", *_NAMES]


def test_a_buffer_too_small_for_one_entry_is_an_error(posix: bytes) -> None:
    with opened(posix, b"wide") as fd, pytest.raises(OSError, match="Invalid argument"):
        getdents(fd, 20)


def test_seekdir_to_any_entry_gives_what_came_after_it(posix: bytes) -> None:
    with opened(posix, b"wide") as fd:
        entries = rest(fd)
        for number in [0, 1, 2, 3, 100, 2500, WIDE, WIDE + 1]:
            os.lseek(fd, entries[number].next, os.SEEK_SET)
            assert rest(fd) == entries[number + 1 :]


def test_rewinddir_begins_again(posix: bytes) -> None:
    with opened(posix, b"wide") as fd:
        first = getdents(fd, 4096)
        os.lseek(fd, 0, os.SEEK_SET)
        assert getdents(fd, 4096) == first


def test_two_readers_of_a_directory_do_not_disturb_each_other(posix: bytes) -> None:
    with opened(posix, b"wide") as one, opened(posix, b"wide") as other:
        found: tuple[list[Entry], list[Entry]] = ([], [])
        while True:
            ahead, behind = getdents(one, 4096), getdents(other, 1024)
            if not ahead and not behind:
                break
            found[0].extend(ahead)
            found[1].extend(behind)
    assert found[0] == found[1]
    assert len(found[0]) == WIDE + 2


def test_types_and_inode_numbers_agree_with_stat(posix: bytes) -> None:
    with opened(posix) as fd:
        entries = rest(fd)
    for entry in entries:
        if entry.name != b"..":
            status = os.lstat(os.path.join(posix, entry.name))
            assert (entry.inode, entry.type) == (status.st_ino, stat.S_IFMT(status.st_mode) >> 12), entry.name


def test_names_come_once_each(posix: bytes) -> None:
    names = os.listdir(posix)
    assert len(set(names)) == len(names)
