"""Signals that come at the wrong time: SIGKILL, SIGTERM and SIGSTOP, while indexing and while serving."""

import contextlib
import errno
import hashlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ocifs.layer.index_format import KIND
from ocifs.store.entry import file_name
from tests.cli.command import Ocifs
from tests.depth import depth
from tests.images import Image, Layer, write_layout
from tests.locking import Holder, waits_for
from tests.tars import directory, file, tar
from tests.waiting import wait_for

_FILES = 12
_EMPTY = 5000
_SIZE = 1 << 20

one_engine = pytest.mark.parametrize("engine", ["fuse"], indirect=True)
"""For what is over when an engine begins."""


def content(number: int) -> bytes:
    return random.Random(number).randbytes(_SIZE)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that takes a moment to index: files of 1 MiB each in two layers, and many empty ones."""
    names = [directory(b"empty/"), *(file(b"empty/%05d" % number) for number in range(_EMPTY))]
    layers = [Layer(tar([file(b"%02d" % number, content(number)) for number in half])) for half in _halves()]
    return write_layout(tmp_path_factory.mktemp("large"), Image(layers=(*layers, Layer(tar(names), "zstd"))))


def _halves() -> tuple[range, range]:
    return range(_FILES // 2), range(_FILES // 2, _FILES)


@pytest.fixture(scope="module")
def indexed(large: Path, session_ocifs: Ocifs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that has the image."""
    cache = tmp_path_factory.mktemp("indexed") / "cache"
    session_ocifs.output("index", "--cache-dir", cache, large)
    return cache


@pytest.fixture
def warm(ocifs: Ocifs, indexed: Path) -> Ocifs:
    return replace(ocifs, environment={**ocifs.environment, "OCIFS_CACHE_DIR": str(indexed)})


@pytest.fixture(scope="module")
def digests() -> list[bytes]:
    return [hashlib.sha256(content(number)).digest() for number in range(_FILES)]


def wrong(mountpoint: Path, digests: list[bytes]) -> list[int]:
    """Return the files that are not what they should be."""
    return [
        number
        for number, digest in enumerate(digests)
        if hashlib.sha256((mountpoint / f"{number:02}").read_bytes()).digest() != digest
    ]


@one_engine
def test_indexing_that_is_killed_anywhere_is_done_by_who_comes_next(
    ocifs: Ocifs, large: Path, digests: list[bytes]
) -> None:
    began = time.monotonic()
    ocifs.output("index", "--cache-dir", ocifs.home / "whole", large)
    takes = time.monotonic() - began
    points = depth(10, 50)
    for point in range(points):
        process = ocifs.start("index", large)
        time.sleep(takes * (point + 0.5) / points)
        process.kill()
        process.communicate()
        if point % 2:
            ocifs.output("cache", "clear")
    with ocifs.mounted(large) as mountpoint:
        assert wrong(mountpoint, digests) == []
        assert len(os.listdir(mountpoint / "empty")) == _EMPTY
    entries = sorted(path.name for path in (ocifs.cache / "entries").iterdir())
    assert entries == sorted(path.name for path in (ocifs.home / "whole/entries").iterdir())
    assert all(
        (ocifs.cache / "entries" / name).read_bytes() == (ocifs.home / "whole/entries" / name).read_bytes()
        for name in entries
    )
    assert ocifs.leftovers() == []


@contextmanager
def building(ocifs: Ocifs, layout: Path) -> Iterator[Holder]:
    """Let another process hold the lock under which the largest layer of an image is indexed."""
    blob = max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    entries = ocifs.cache / "entries"
    entries.mkdir(parents=True, mode=0o700)
    ocifs.cache.chmod(0o700)
    with Holder(entries / f"{file_name(KIND, f'sha256:{blob.name}')}.tmp") as holder:
        yield holder


def wait_for_the_builder(ocifs: Ocifs, process: "subprocess.Popen[bytes]") -> None:
    (lock,) = (ocifs.cache / "entries").glob(f"{KIND.name}{KIND.version}-*.tmp")
    wait_for(lambda: waits_for(process.pid, lock))


@one_engine
def test_who_waits_for_a_builder_that_is_killed_takes_over(ocifs: Ocifs, large: Path) -> None:
    with building(ocifs, large) as builder:
        others = [ocifs.start("index", "--low-memory", large) for _ in range(2)]
        wait_for_the_builder(ocifs, others[0])
        builder.kill()
        assert [other.communicate(timeout=60)[1] for other in others] == [b""] * 2
    assert [other.returncode for other in others] == [0] * 2
    assert list((ocifs.cache / "entries").glob("*.tmp")) == []


@one_engine
def test_a_builder_that_is_stopped_keeps_no_command_waiting(ocifs: Ocifs, large: Path) -> None:
    with building(ocifs, large) as builder:
        builder.stop()
        result = ocifs.run("index", large)
        assert (result.code, result.err.count("\n")) == (0, 1)
        assert result.err.startswith(
            f"ocifs: warning: process {builder.pid} is stopped, so what it puts into the cache"
        )
        assert len(list((ocifs.cache / "entries").glob("*.tmp"))) == 1
        assert ocifs.run("index", large).err == ""


@one_engine
def test_who_waits_for_a_builder_can_be_interrupted(ocifs: Ocifs, large: Path) -> None:
    with building(ocifs, large):
        waiting = ocifs.start("index", "--low-memory", large)
        wait_for_the_builder(ocifs, waiting)
        waiting.send_signal(signal.SIGINT)
        assert waiting.communicate(timeout=60)[1] == b"ocifs: interrupted\n"
        assert waiting.returncode == 130


def test_a_mount_that_is_killed_anywhere_is_there_or_not(warm: Ocifs, large: Path) -> None:
    """The command only: the daemon mounts if it can still say so, and else leaves nothing."""
    mountpoint = warm.mountpoint()
    began = time.monotonic()
    warm.output("mount", large, mountpoint)
    takes = time.monotonic() - began
    warm.output("umount", mountpoint)
    for point in range(depth(6, 50)):
        process = warm.start("mount", large, mountpoint)
        time.sleep(takes * (point + 0.5) / depth(6, 50))
        process.kill()
        process.communicate()
        with contextlib.suppress(OSError):
            assert (mountpoint / "00").read_bytes() == content(0)
        warm.run("umount", mountpoint)  # if there is something
        assert warm.leftovers() == []


class Readers:
    """Threads that read files at random, and look at every byte."""

    def __init__(self, mountpoint: Path, digests: list[bytes], count: int = 8) -> None:
        self.errors: list[OSError] = []
        self.wrong: list[int] = []
        self.read = 0
        self._digests = digests
        self._mountpoint = mountpoint
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(count)]

    def _run(self, seed: int) -> None:
        choice = random.Random(seed)
        while not self._stop.is_set():
            number = choice.randrange(_FILES)
            try:
                with (self._mountpoint / f"{number:02}").open("rb", buffering=0) as opened:
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    data = opened.read()
            except OSError as error:
                self.errors.append(error)
                return
            self.read += 1
            if hashlib.sha256(data).digest() != self._digests[number]:
                self.wrong.append(number)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()

    @classmethod
    @contextmanager
    def reading(cls, mountpoint: Path, digests: list[bytes]) -> Iterator["Readers"]:
        readers = cls(mountpoint, digests)
        for thread in readers._threads:
            thread.start()
        try:
            yield readers
        finally:
            readers._stop.set()
            readers.join()
        assert readers.wrong == []


_GONE = {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ENOENT}
"""What is left of a mount may be the empty directory."""


def test_killed_while_it_serves_eight_readers(warm: Ocifs, large: Path, digests: list[bytes], engine: str) -> None:
    mountpoint = warm.mountpoint()
    warm.output("mount", large, mountpoint)
    for _ in range(depth(2, 30)):
        (daemon,) = warm.processes()
        with Readers.reading(mountpoint, digests) as readers:
            time.sleep(0.3)
            os.kill(daemon, signal.SIGKILL)
            if engine == "fuse":  # EROFS goes on with what is in memory, which may be all
                readers.join()
            time.sleep(0.2)
        assert {error.errno for error in readers.errors} <= _GONE
        warm.output("mount", "--replace", large, mountpoint)
        assert wrong(mountpoint, digests) == []
    warm.output("umount", mountpoint)


def _twice(daemon: int) -> None:
    os.kill(daemon, signal.SIGTERM)
    os.kill(daemon, signal.SIGTERM)


_ENDS: dict[str, Callable[[Ocifs, Path, int], object]] = {
    "SIGTERM": lambda ocifs, mountpoint, daemon: os.kill(daemon, signal.SIGTERM),
    "SIGTERM twice": lambda ocifs, mountpoint, daemon: _twice(daemon),
    "SIGINT": lambda ocifs, mountpoint, daemon: os.kill(daemon, signal.SIGINT),
    "umount --lazy": lambda ocifs, mountpoint, daemon: ocifs.output("umount", "--lazy", mountpoint),
}


@pytest.mark.parametrize("how", _ENDS)
def test_ended_during_cold_reads(warm: Ocifs, large: Path, digests: list[bytes], how: str) -> None:
    mountpoint = warm.mountpoint()
    warm.output("mount", large, mountpoint)
    (daemon,) = warm.processes()
    with Readers.reading(mountpoint, digests) as readers:
        time.sleep(0.2)
        _ENDS[how](warm, mountpoint, daemon)
        readers.join()
    assert {error.errno for error in readers.errors} <= _GONE
    assert warm.leftovers() == []
    assert "Traceback" not in warm.log.read_text()


def test_umount_during_cold_reads_says_who_reads(warm: Ocifs, large: Path, digests: list[bytes]) -> None:
    with warm.mounted(large) as mountpoint, Readers.reading(mountpoint, digests) as readers:
        held = (mountpoint / "00").open("rb")
        with held:
            result = warm.run("umount", mountpoint)
        assert (result.code, f"({os.getpid()})" in result.err) == (7, True)
        before = readers.read
        while readers.read == before:
            time.sleep(0.01)
        assert readers.errors == []


def test_a_stopped_daemon_goes_on_where_it_was(warm: Ocifs, large: Path, digests: list[bytes]) -> None:
    with warm.mounted(large, "--read-timeout", "2") as mountpoint, Readers.reading(mountpoint, digests) as readers:
        (daemon,) = warm.processes()
        for seconds in depth([3.0], [0.1, 1.0, 5.0, 30.0]):
            time.sleep(0.2)
            os.kill(daemon, signal.SIGSTOP)
            time.sleep(seconds)
            before = readers.read
            os.kill(daemon, signal.SIGCONT)
            while readers.read < before + 20 and not readers.errors:
                time.sleep(0.01)
            assert readers.errors == []
    assert warm.log.read_text() == ""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGPIPE])
def test_signals_that_mean_nothing(warm: Ocifs, large: Path, number: signal.Signals) -> None:
    with warm.mounted(large) as mountpoint:
        (daemon,) = warm.processes()
        os.kill(daemon, number)
        assert (mountpoint / "00").read_bytes() == content(0)


def test_no_file_of_the_daemon_is_for_its_children(warm: Ocifs, large: Path) -> None:
    """But the standard ones, which are not what it serves from."""
    with warm.mounted(large):
        (daemon,) = warm.processes()
        for info in Path(f"/proc/{daemon}/fdinfo").iterdir():
            flags = int(
                dict(line.split(":\t", 1) for line in info.read_text().splitlines() if ":\t" in line)["flags"], 8
            )
            assert int(info.name) < 3 or flags & os.O_CLOEXEC, os.readlink(f"/proc/{daemon}/fd/{info.name}")


def test_a_killed_reader_leaves_nothing_behind(warm: Ocifs, large: Path) -> None:
    with warm.mounted(large) as mountpoint:
        for _ in range(depth(5, 100)):
            reader = subprocess.Popen(["sha256sum", *mountpoint.glob("[0-9]*")], stdout=subprocess.DEVNULL)
            time.sleep(0.03)
            reader.kill()
            assert reader.wait(timeout=10) == -signal.SIGKILL
        assert (mountpoint / "11").read_bytes() == content(11)
