"""Much at once, and for long: nothing grows, nothing is wrong, nothing is left."""

import ctypes
import gc
import hashlib
import os
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ocifs.image.opening import open_image
from ocifs.options import Options
from ocifs.store import Store
from tests.cli.command import Ocifs
from tests.depth import depth
from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, tar

_FILES = 400
_LARGE = 8
_BESIDE = 8
"""Threads, and files that they open, of a mount's work in the background, which begins and ends at any time."""


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    """What the files of the image hold: many small ones, and some that are longer than several spans."""
    chance = random.Random(11)
    small = {f"small/{number:03}": chance.randbytes(chance.randrange(20_000)) for number in range(_FILES)}
    return small | {f"large/{number}": chance.randbytes((2 << 20) + number) for number in range(_LARGE)}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, contents: dict[str, bytes]) -> Path:
    """They lie in three layers, each compressed in another way."""
    members: list[list[bytes]] = [[directory(b"small/"), directory(b"large/")], [], []]
    for number, (name, data) in enumerate(contents.items()):
        members[number % 3].append(file(name.encode(), data))
    layers = [Layer(tar(each), kind) for each, kind in zip(members, ("gzip", "zstd", "tar"), strict=True)]  # type: ignore[arg-type]
    return write_layout(tmp_path_factory.mktemp("load") / "image", Image(layers=tuple(layers)))


@pytest.fixture
def warm(ocifs: Ocifs, indexed: Path) -> Ocifs:
    return replace(ocifs, environment={**ocifs.environment, "OCIFS_CACHE_DIR": str(indexed)})


class Figures:
    """Of a process: open files, threads, and KiB of memory that is its own."""

    def __init__(self, pid: int) -> None:
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        self.files = len(os.listdir(f"/proc/{pid}/fd"))
        self.threads = int(status["Threads"])
        self.memory = int(status["RssAnon"].split()[0])

    def grew_from(self, earlier: "Figures") -> bool:
        """Whether more is open or runs than what the mount does beside serving explains: verify, trim, learn."""
        return self.files > earlier.files + _BESIDE or self.threads > earlier.threads + _BESIDE


def drop_caches() -> None:
    Path("/proc/sys/vm/drop_caches").write_text("3")


def read_randomly(mountpoint: Path, contents: dict[str, bytes], chance: random.Random) -> str | None:
    """Read a piece of a file; return its name if the bytes are wrong."""
    name = chance.choice(list(contents))
    data = contents[name]
    offset, size = chance.randrange(len(data) + 2), chance.choice([1, 4096, 100_000, 3 << 20])
    with (mountpoint / name).open("rb", buffering=0) as opened:
        if chance.random() < 0.3:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        found = b""
        while len(found) < size and (more := os.pread(opened.fileno(), size - len(found), offset + len(found))):
            found += more
    return None if found == data[offset : offset + size] else name


def look_randomly(mountpoint: Path, contents: dict[str, bytes], chance: random.Random) -> str | None:
    """Look at names and attributes; return what is wrong."""
    name = chance.choice(list(contents))
    if os.lstat(mountpoint / name).st_size != len(contents[name]):
        return f"size of {name}"
    listed = os.listdir(mountpoint / "large")
    return None if len(listed) == _LARGE else f"{len(listed)} names"


def test_sixteen_readers_and_caches_that_are_dropped(
    warm: Ocifs, image: Path, contents: dict[str, bytes], root: None
) -> None:
    stop = threading.Event()
    failures: list[object] = []
    reads = [0] * 16

    def read(number: int) -> None:
        chance = random.Random(number)
        while not stop.is_set():
            try:
                wrong = look_randomly(mountpoint, contents, chance)
                wrong = wrong or read_randomly(mountpoint, contents, chance)
            except OSError as error:
                wrong = str(error)
            reads[number] += 1
            if wrong is not None:
                failures.append(wrong)

    with warm.mounted(image, "--span-cache", "4MiB") as mountpoint:
        (daemon,) = warm.processes()
        threads = [threading.Thread(target=read, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        chance = random.Random(0)
        seconds = depth(4.0, 600.0)
        began = time.monotonic()
        figures = []
        while time.monotonic() - began < seconds:
            time.sleep(chance.random())
            drop_caches()
            figures.append(Figures(daemon))
        stop.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        figures.append(Figures(daemon))
    assert failures == []
    assert min(reads) > 0
    early, late = figures[len(figures) // 4], figures[-1]
    assert not late.grew_from(early)
    half = len(figures) // 2
    most, later = (max(each.memory for each in some) for some in (figures[:half], figures[half:]))
    assert later < most * depth(1.3, 1.1) + depth(8192, 4096)  # it has reached what it will ever take
    assert warm.log.read_text() == ""


def test_what_is_forgotten_and_found_again_costs_nothing(
    warm: Ocifs, image: Path, contents: dict[str, bytes], root: None
) -> None:
    """The kernel forgets all inodes, and asks for them again: forget and lookup by the thousand."""
    with warm.mounted(image) as mountpoint:
        (daemon,) = warm.processes()
        figures = []
        for _ in range(depth(12, 300)):
            assert sum(len(names) for _, _, names in os.walk(mountpoint)) == len(contents)
            (mountpoint / "small/000").read_bytes()
            drop_caches()
            figures.append(Figures(daemon))
        warmed, last = figures[len(figures) // 3], figures[-1]
        assert not last.grew_from(warmed)
        assert last.memory < warmed.memory + 2048


def test_mounting_again_and_again_leaves_nothing(warm: Ocifs, image: Path, contents: dict[str, bytes]) -> None:
    mountpoint = warm.mountpoint()
    figures = []
    for _ in range(depth(6, 1000)):
        warm.output("mount", "--hot-pack", "0", image, mountpoint)  # a later mount would have a pack in memory
        (daemon,) = warm.processes()
        assert (mountpoint / "small/007").read_bytes() == contents["small/007"]
        figures.append(Figures(daemon))
        warm.output("umount", mountpoint)
        assert warm.leftovers() == []
    assert not figures[-1].grew_from(figures[1])
    assert figures[-1].memory < figures[0].memory + 4096


@pytest.mark.parametrize("engine", ["fuse"], indirect=True)
def test_opening_again_and_again_in_one_process(
    image: Path, indexed: Path, contents: dict[str, bytes], engine: str
) -> None:
    def once() -> None:
        with open_image(str(image), Options(store=Store(indexed))) as opened, opened.rootfs.open("large/1") as file_:
            assert hashlib.sha256(file_.read()).digest() == hashlib.sha256(contents["large/1"]).digest()

    figures = []
    for _ in range(depth(40, 2000)):
        once()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        figures.append(Figures(os.getpid()))
    assert (figures[-1].files, figures[-1].threads) == (figures[4].files, figures[4].threads)
    assert figures[-1].memory < figures[len(figures) // 2].memory + 4096


@pytest.mark.parametrize("engine", ["fuse"], indirect=True)
@pytest.mark.parametrize("count", depth([6], [2, 4, 8, 16]))
def test_a_cold_image_is_indexed_once_however_many_mount_it(
    ocifs: Ocifs, image: Path, contents: dict[str, bytes], count: int, finished: "Finished"
) -> None:
    mountpoints = [ocifs.mountpoint() for _ in range(count)]
    finished.watch(ocifs)
    processes = [ocifs.start("mount", image, mountpoint) for mountpoint in mountpoints]
    assert [process.communicate(timeout=120) for process in processes] == [(b"", b"")] * count
    assert sorted(name.partition("-")[0][:-1] for name in finished.names()) == ["layer"] * 3 + ["tree"]
    for mountpoint in mountpoints:
        assert (mountpoint / "large/2").read_bytes() == contents["large/2"]
    ocifs.output("umount", *mountpoints)


class Finished:
    """The entries of a cache that get their names (inotify(7), IN_MOVED_TO)."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)

    def watch(self, ocifs: Ocifs) -> None:
        (ocifs.cache / "entries").mkdir(mode=0o700, parents=True)
        assert self._libc.inotify_add_watch(self.fd, bytes(ocifs.cache / "entries"), 0x80) > 0

    def names(self) -> list[str]:
        events, found = os.read(self.fd, 1 << 16), []
        while events:
            length = int.from_bytes(events[12:16], "little")
            found.append(events[16 : 16 + length].rstrip(b"\0").decode())
            events = events[16 + length :]
        return found


@pytest.fixture
def finished() -> Iterator[Finished]:
    made = Finished()
    yield made
    os.close(made.fd)
