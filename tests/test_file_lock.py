"""A lock that no process waits for without end."""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ocifs.file_lock import StuckHolderError, lock
from tests.locking import Holder
from tests.waiting import wait_for

BOTH = pytest.mark.parametrize("of_process", [False, True])


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        yield fd
    finally:
        os.close(fd)


def is_locked(path: Path) -> bool:
    with opened(path) as fd:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_free_lock_is_taken(tmp_path: Path) -> None:
    with opened(tmp_path / "file") as fd:
        lock(fd)
        assert is_locked(tmp_path / "file")
    assert not is_locked(tmp_path / "file")


@BOTH
def test_a_holder_is_awaited_and_its_end_noticed(tmp_path: Path, *, of_process: bool) -> None:
    with Holder(tmp_path / "file", of_process=of_process) as holder, opened(tmp_path / "file") as fd:
        lock(fd, of_process=of_process, check=holder.kill)


@BOTH
def test_a_stopped_holder_is_named(tmp_path: Path, *, of_process: bool) -> None:
    with Holder(tmp_path / "file", of_process=of_process) as holder, opened(tmp_path / "file") as fd:
        holder.stop()
        with pytest.raises(StuckHolderError, match=rf"^process {holder.pid} is stopped$"):
            lock(fd, of_process=of_process, stopped_patience=0.05)


@BOTH
def test_a_holder_without_progress_is_named(tmp_path: Path, *, of_process: bool) -> None:
    with Holder(tmp_path / "file", of_process=of_process) as holder, opened(tmp_path / "file") as fd:
        message = rf"^process {holder.pid} has made no progress for 0\.5 s$"
        with pytest.raises(StuckHolderError, match=message):
            lock(fd, of_process=of_process, patience=0.5)


def test_a_holder_that_changes_the_file_makes_progress(tmp_path: Path) -> None:
    """Each look finds more bytes: the holder writes before every one."""
    looks = 0
    with Holder(tmp_path / "file") as holder, opened(tmp_path / "file") as fd:

        def write() -> None:
            nonlocal looks
            size, looks = os.fstat(fd).st_size, looks + 1
            if looks == 12:
                holder.kill()
            else:
                holder.write()
                wait_for(lambda: os.fstat(fd).st_size > size)

        lock(fd, check=write, patience=0.3)
    assert looks >= 12


def test_the_wait_can_be_ended(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()

    def check() -> None:
        if stop.is_set():
            raise InterruptedError

    with Holder(tmp_path / "file"), opened(tmp_path / "file") as fd, pytest.raises(InterruptedError):
        lock(fd, check=check)
