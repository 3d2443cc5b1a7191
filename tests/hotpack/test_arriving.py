"""A file that arrives: reads wait only for their own bytes."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ocifs.errors import RegistryError
from ocifs.hotpack.arriving import ArrivingFile

DATA = bytes(range(256)) * 40


@pytest.fixture
def fd() -> Iterator[int]:
    fd = os.memfd_create("pack")
    yield fd
    os.close(fd)


def test_a_read_waits_for_its_last_byte(fd: int) -> None:
    file = ArrivingFile(fd, len(DATA))
    more = threading.Event()

    def stream() -> Iterator[bytes]:
        yield DATA[:100]
        assert more.wait(60)
        yield DATA[100:]

    with ThreadPoolExecutor(2) as threads:
        received = threads.submit(file.receive, stream)
        assert file.pread(90, 10) == DATA[10:100]
        later = threads.submit(file.pread, 50, 80)
        assert not later.done()
        more.set()
        assert later.result(60) == DATA[80:130]
        assert received.result(60)
    assert file.pread(1 << 20, 0) == DATA
    assert file.pread(10, len(DATA)) == b""


def test_a_read_of_what_never_comes_fails(fd: int) -> None:
    file = ArrivingFile(fd, len(DATA))

    def stream() -> Iterator[bytes]:
        yield DATA[:100]
        raise RegistryError("it is gone")

    assert not file.receive(stream)
    assert file.pread(100, 0) == DATA[:100]
    with pytest.raises(RegistryError, match="hot pack: it is gone"):
        file.pread(1, 100)


def test_no_read_waits_for_a_receiver_that_has_ended(fd: int) -> None:
    file = ArrivingFile(fd, len(DATA))

    def stream() -> Iterator[bytes]:
        yield DATA[:100]
        raise MemoryError

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(file.pread, 1, 100)
        with pytest.raises(MemoryError):
            file.receive(stream)
        with pytest.raises(RegistryError, match="another number of bytes"):
            waiting.result(60)


@pytest.mark.parametrize("data", [DATA[:-1], b""])
def test_too_few_bytes_are_an_error(fd: int, data: bytes) -> None:
    file = ArrivingFile(fd, len(DATA))
    assert not file.receive(lambda: iter([data]))
    with pytest.raises(RegistryError, match="another number of bytes"):
        file.pread(1, len(DATA) - 1)


def test_too_many_bytes_are_cut(fd: int) -> None:
    file = ArrivingFile(fd, len(DATA))
    assert file.receive(lambda: iter([DATA, b"more"]))
    assert os.fstat(fd).st_size == len(DATA)
