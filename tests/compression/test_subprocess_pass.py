"""Inflating in another process: the same bytes and checkpoints, memory that is used again, and every way to end."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ocifs.compression import Checkpoint, evenly, zng
from ocifs.compression.blocks import BlockPass
from ocifs.compression.rapid import RapidgzipPass, rapidgzip_is_installed
from ocifs.compression.subprocess_pass import PIECE, SubprocessPass, is_worth_a_process
from ocifs.errors import InvalidImageError, OcifsError
from ocifs.reader import BytesReader, FileReader, ReaderAt, StoppableReader
from tests.faults import refusing

Kind = type[BlockPass] | type[RapidgzipPass]
KINDS: list[Kind] = []
if zng.can_stop_between_blocks():
    KINDS.append(BlockPass)
if rapidgzip_is_installed():
    KINDS.append(RapidgzipPass)

CHANCE = random.Random(5)
DATA = b"".join(CHANCE.randbytes(CHANCE.randrange(1, 3000)) + bytes(CHANCE.randrange(3000)) for _ in range(12_000))
BLOB = zlib.compress(DATA[: 5 << 20], wbits=31) + zlib.compress(DATA[5 << 20 :], wbits=31)


@pytest.fixture
def in_file() -> Iterator[Callable[[bytes], FileReader]]:
    """Put a blob in a file, between others."""
    fds: list[int] = []

    def write(blob: bytes) -> FileReader:
        fds.append(os.memfd_create("blob"))
        os.write(fds[-1], b"another" + blob + b"and another")
        return FileReader(fds[-1], 7, len(blob))

    yield write
    for fd in fds:
        os.close(fd)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Return each pass that is to be had here."""
    found: Kind = request.param
    return found


class Greedy(BlockPass):
    """Takes more memory than a process may have."""

    def __init__(self, blob: ReaderAt) -> None:
        super().__init__(blob)
        self.memory = bytearray(3 << 30)


def fds() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


def test_it_gives_what_the_pass_in_this_process_gives(kind: Kind, in_file: Callable[[bytes], FileReader]) -> None:
    blob = in_file(BLOB)
    before = fds()
    told: list[list[Checkpoint]] = []
    with SubprocessPass(kind, blob) as reading:
        got = bytearray()
        for chunk in reading.chunks():
            got += chunk
            told += [reading.found] if not told or reading.found is not told[-1] else []
        points = list(reading.checkpoints())
        assert reading.consumed == len(BLOB)
        del chunk  # the last reference
    assert fds() == before
    assert got == DATA
    with kind(blob) as here:
        assert b"".join(here.chunks()) == DATA
        assert list(here.checkpoints()) == points
    assert len(told[-1]) > 1
    kept = list(evenly(iter(told[-1])))[:-1]
    assert [point._replace(window=b"") for point in points[: len(kept)]] == kept


def test_a_chunk_stays_as_long_as_it_is_referenced(kind: Kind, in_file: Callable[[bytes], FileReader]) -> None:
    with SubprocessPass(kind, in_file(BLOB)) as reading:
        chunks = reading.chunks()
        kept = [next(chunks)[100:200] for _ in range(3)]  # a part holds the whole
        size = 3 * PIECE + sum(len(chunk) for chunk in chunks)
        assert [bytes(part) for part in kept] == [DATA[n * PIECE + 100 : n * PIECE + 200] for n in range(3)]
    assert size == len(DATA)
    assert [bytes(part) for part in kept] == [DATA[n * PIECE + 100 : n * PIECE + 200] for n in range(3)]


@pytest.mark.parametrize("place", [1, len(BLOB) // 2, -6, -1])
def test_damage_is_one_line(kind: Kind, place: int, in_file: Callable[[bytes], FileReader]) -> None:
    damaged = bytearray(BLOB)
    damaged[place] ^= 0xFF
    blob = in_file(bytes(damaged))
    before = fds()
    with (
        SubprocessPass(kind, blob) as reading,
        pytest.raises(InvalidImageError, match=r"^(gzip stream damaged near byte \d+|rapidgzip): .*$"),
    ):
        list(map(len, reading.chunks()))
    assert fds() == before


@pytest.mark.parametrize("size", [1, 5000, len(BLOB) - 1])
def test_a_cut_blob_is_one_line(kind: Kind, size: int, in_file: Callable[[bytes], FileReader]) -> None:
    with (
        SubprocessPass(kind, in_file(BLOB[:size])) as reading,
        pytest.raises(InvalidImageError, match=r"is truncated|rapidgzip: "),
    ):
        list(map(len, reading.chunks()))


def test_a_process_that_is_killed_is_no_end_of_the_stream(kind: Kind, in_file: Callable[[bytes], FileReader]) -> None:
    with SubprocessPass(kind, in_file(BLOB)) as reading:
        chunks = reading.chunks()
        next(chunks)
        reading._process.send_signal(signal.SIGKILL)
        with pytest.raises(InvalidImageError, match="ended with status -9"):
            list(map(len, chunks))


def test_a_pass_may_be_left_at_any_point(kind: Kind, in_file: Callable[[bytes], FileReader]) -> None:
    blob = in_file(BLOB)
    before = fds()
    with SubprocessPass(kind, blob):
        pass
    with SubprocessPass(kind, blob) as reading:
        kept = next(reading.chunks())
    del kept  # the last reference
    with SubprocessPass(kind, blob) as reading:
        list(map(len, reading.chunks()))
    assert fds() == before


def test_the_process_ends_with_the_one_that_wanted_it(kind: Kind, in_file: Callable[[bytes], FileReader]) -> None:
    blob = in_file(BLOB)
    program = (
        "import os, sys; from ocifs.compression.subprocess_pass import *; from ocifs.reader import FileReader\n"
        "from ocifs.compression.blocks import BlockPass; from ocifs.compression.rapid import RapidgzipPass\n"
        f"reading = SubprocessPass({kind.__name__}, FileReader(*map(int, sys.argv[1:]))).__enter__()\n"
        "next(reading.chunks()); print(reading._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    arguments = [str(number) for number in (blob.fd, blob.offset, blob.size)]
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, pass_fds=[blob.fd], stdout=subprocess.PIPE, check=False)
    assert done.returncode == -9
    until = time.monotonic() + 30
    while os.path.exists(f"/proc/{int(done.stdout)}") and time.monotonic() < until:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{int(done.stdout)}")


def test_a_process_that_is_stopped_is_given_up(kind: Kind, in_file: Callable[[bytes], FileReader]) -> None:
    with SubprocessPass(kind, in_file(BLOB), most_stopped=0.3) as stopped:
        chunks = stopped.chunks()
        next(chunks)
        stopped._process.send_signal(signal.SIGSTOP)
        with pytest.raises(InvalidImageError, match="the inflating process was stopped"):
            list(map(len, chunks))


def test_a_process_that_is_stopped_for_a_moment_goes_on(kind: Kind, in_file: Callable[[bytes], FileReader]) -> None:
    with SubprocessPass(kind, in_file(BLOB)) as stopped:
        stopped._process.send_signal(signal.SIGSTOP)
        with ThreadPoolExecutor(1) as threads:
            size = threads.submit(lambda: sum(map(len, stopped.chunks())))
            time.sleep(0.5)
            assert not size.done()
            stopped._process.send_signal(signal.SIGCONT)
            assert size.result() == len(DATA)


def test_who_waits_for_the_process_can_be_interrupted(kind: Kind, in_file: Callable[[bytes], FileReader]) -> None:
    blob = in_file(BLOB)
    stop = threading.Event()
    with SubprocessPass(kind, StoppableReader(blob, stop)) as stopped:
        stopped._process.send_signal(signal.SIGSTOP)
        stop.set()
        with pytest.raises(OcifsError, match="interrupted"):
            next(stopped.chunks())


def test_the_memory_of_the_process_is_bounded(
    in_file: Callable[[bytes], FileReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    with SubprocessPass(Greedy, in_file(BLOB)) as reading, pytest.raises(InvalidImageError, match=r"^MemoryError$"):
        next(reading.chunks())


def test_where_no_process_can_be_had_the_other_pass_is_asked(
    kind: Kind, in_file: Callable[[bytes], FileReader]
) -> None:
    blob = in_file(BLOB)
    before = fds()
    with pytest.raises(InvalidImageError, match="to inflate: Resource"):
        refusing("start", errno.EAGAIN, SubprocessPass(kind, blob).__enter__)
    assert fds() == before


def test_only_what_is_large_and_in_a_file_is_worth_a_process(in_file: Callable[[bytes], FileReader]) -> None:
    assert not is_worth_a_process(in_file(b"small"))
    assert not is_worth_a_process(BytesReader(bytes(20 << 20)))
    assert is_worth_a_process(FileReader(in_file(b"").fd, 0, 20 << 20))
