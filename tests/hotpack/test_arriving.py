"""A file that arrives: reads wait only for their own bytes."""

import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ocifs.errors import RegistryError
from ocifs.hotpack.arriving import ArrivingFile
from tests import faults

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


# Readers that could do without the file

MIB = 1 << 20


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_is_here_needs_no_wait(fd: int) -> None:
    file = ArrivingFile(fd, len(DATA))
    assert file.receive(lambda: iter([DATA]))
    assert file.arrives(1 << 20, 0)


def test_what_is_about_to_arrive_is_waited_for(fd: int) -> None:
    file = ArrivingFile(fd, len(DATA))
    file.patience = 60.0
    more = threading.Event()

    def stream() -> Iterator[bytes]:
        assert more.wait(60)
        yield DATA

    with ThreadPoolExecutor(2) as threads:
        received = threads.submit(file.receive, stream)
        waiting = threads.submit(file.arrives, 50, 80)
        more.set()
        assert waiting.result(60)
        assert received.result(60)


def test_a_wait_ends_with_the_request(fd: int) -> None:
    file = ArrivingFile(fd, len(DATA))
    file.patience = 60.0
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(file.arrives, 50, 80)
        assert not file.receive(lambda: iter([DATA[:100]]))
        assert not waiting.result(60)
    assert not file.arrives(50, 80)


def test_what_is_far_away_is_not_waited_for(fd: int) -> None:
    """But a faster request brings it nearer."""
    clock = Clock()
    file = ArrivingFile(fd, 100 * MIB, clock)
    file.patience = 600.0
    assert not file.arrives(1, MIB + 1)
    clock.now += 1
    file._write(bytes(MIB))  # at 1 MiB/s
    file.patience = 0.01
    assert not file.arrives(1, 3 * MIB)
    assert file._in_vain < 0
    file.patience = 3.0  # now that is 3 MiB
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(file.arrives, 1, 3 * MIB)
        file.found(4 * MIB)
        assert waiting.result(60)


def test_a_wait_in_vain_is_the_last_until_another_mib_has_arrived(fd: int) -> None:
    file = ArrivingFile(fd, 100 * MIB)
    file.patience = 0.01
    assert not file.arrives(1, 0)
    file.patience = 600.0
    assert not file.arrives(1, 0)
    file._write(bytes(MIB - 1))
    assert not file.arrives(1, MIB)
    file._write(bytes(1))
    file.patience = 0.01
    assert not file.arrives(1, MIB)  # waits
    assert file._in_vain == MIB


def test_a_request_that_stalls_or_trickles_does_not_use_the_link(fd: int) -> None:
    clock = Clock()
    file = ArrivingFile(fd, 100 * MIB, clock)
    assert file.is_moving()
    clock.now += 5
    assert not file.is_moving()
    file._write(bytes(1024))
    assert not file.is_moving()
    file._write(bytes(MIB))
    assert file.is_moving()
    file.end()
    assert not file.is_moving()


def test_it_goes_on_behind_what_is_there(fd: int) -> None:
    os.pwrite(fd, DATA[:100], 0)
    file = ArrivingFile(fd, len(DATA))
    file.found(100)
    assert file.pread(100, 0) == DATA[:100]
    assert file.receive(lambda: iter([DATA[100:]]))
    assert file.pread(len(DATA), 0) == DATA


def test_what_another_process_has_completed_is_not_written_to(fd: int) -> None:
    os.pwrite(fd, DATA + b"footer", 0)
    file = ArrivingFile(fd, len(DATA))
    assert file.is_complete()
    assert file.receive(lambda: iter([bytes(len(DATA))]))
    assert file.pread(len(DATA), 0) == DATA


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_takes_no_bytes_ends_it(fd: int, code: int) -> None:
    file = ArrivingFile(fd, len(DATA))
    file._write(DATA[:100])
    assert not faults.refusing("pwrite", code, lambda: file.receive(lambda: iter([DATA[100:]])))
    assert file.pread(100, 0) == DATA[:100]
    with pytest.raises(RegistryError, match=os.strerror(code)):
        file.pread(1, 100)
