"""Readers: any range, a short one at the end, and nothing of what lies outside."""

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocifs.reader import BytesReader, FileReader, FileSection

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


def test_short_reads_of_the_system_are_continued() -> None:
    """The kernel returns a few of its symbols at a time, about a page."""
    with open("/proc/kallsyms", "rb", buffering=0) as file:
        symbols = file.readall()
        if len(os.pread(file.fileno(), 50_000, 5000)) >= 50_000 or len(symbols) < 60_000:
            pytest.skip("this kernel does not read shortly")
        assert FileReader(file.fileno(), 5000, 50_000).pread(40_000, 3000) == symbols[8000:48_000]
        assert FileReader(file.fileno(), len(symbols) - 9000, 50_000).pread(50_000, 0) == symbols[-9000:]


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
