"""Readers: any range, a short one at the end, and nothing of what lies outside."""

import errno
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocifs.reader import BytesReader, FileReader, FileSection, at_hand

DATA = random.Random(1).randbytes(1000)


@pytest.fixture(scope="module")
def fd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    path = tmp_path_factory.mktemp("reader") / "file"
    path.write_bytes(DATA)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


@given(st.integers(0, 1100), st.integers(0, 1100))
def test_bytes(size: int, offset: int) -> None:
    reader = BytesReader(DATA)
    assert reader.size == len(DATA)
    assert reader.pread(size, offset) == DATA[offset : offset + size]


@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 600), st.integers(0, 600))
def test_a_section_of_a_file(fd: int, start: int, length: int, size: int, offset: int) -> None:
    section = DATA[start : start + length]
    assert FileReader(fd, start, length).pread(size, offset) == section[offset : offset + size]


def test_a_section_goes_to_the_end_unless_told(fd: int) -> None:
    reader = FileReader(fd, 900)
    assert reader.size == 100
    assert reader.pread(1 << 40, 0) == DATA[900:]


def test_a_file_that_became_shorter_gives_what_there_is(fd: int) -> None:
    assert FileReader(fd, 900, 500).pread(500, 0) == DATA[900:]
    assert FileReader(fd, 2000, 500).pread(500, 0) == b""


def test_short_reads_of_the_system_are_continued(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: real(fd, min(size, 7), offset))
    assert FileReader(fd, 3).pread(500, 5) == DATA[8:508]
    assert FileReader(fd, 900, 500).pread(500, 0) == DATA[900:]


def test_what_another_process_can_be_given(fd: int) -> None:
    assert isinstance(FileReader(fd), FileSection)
    assert not isinstance(BytesReader(DATA), FileSection)


def test_threads_do_not_disturb_each_other(fd: int) -> None:
    reader = FileReader(fd)

    def read(seed: int) -> bool:
        chance = random.Random(seed)
        places = [(chance.randrange(100), chance.randrange(1000)) for _ in range(500)]
        return all(reader.pread(size, offset) == DATA[offset : offset + size] for size, offset in places)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(8)))


@given(st.integers(0, 1100), st.integers(0, 1100))
def test_what_is_in_memory_is_at_hand(fd: int, size: int, offset: int) -> None:
    assert at_hand(BytesReader(DATA), size, offset) == DATA[offset : offset + size]
    assert at_hand(FileReader(fd, 100, 800), size, offset) == DATA[100:900][offset : offset + size]


def test_what_the_kernel_would_have_to_read_is_not_at_hand(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_now(*_: object) -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "preadv", not_now)
    assert at_hand(FileReader(fd), 10, 0) is None
    monkeypatch.setattr(os, "preadv", lambda *_: 4)  # a part is there
    assert at_hand(FileReader(fd), 10, 0) is None


def test_where_the_kernel_cannot_tell_it_is_read(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "")

    monkeypatch.setattr(os, "preadv", cannot)
    assert at_hand(FileReader(fd), 10, 0) == DATA[:10]
