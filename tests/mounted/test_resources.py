"""A machine that gives less than an image takes: of open files, of memory, of room in the cache."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.depth import depth
from tests.images import Image, Layer, write_layout
from tests.tars import file, tar

_LAYERS = 60


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """An image of many layers, each with a file of its own."""
    layers = [Layer(tar([file(b"%03d" % number, b"%d" % number)])) for number in range(_LAYERS)]
    return write_layout(tmp_path / "many", Image(layers=tuple(layers)))


def limited(ocifs: Ocifs, files: int) -> Ocifs:
    """Return the command under a limit on open files, which it cannot raise."""
    return replace(ocifs, become=("prlimit", f"--nofile={files}:{files}"))


@pytest.mark.parametrize("kind", ["directory", "archive"])
def test_too_few_open_files_are_said_to_be_too_few(ocifs: Ocifs, many: Path, kind: str) -> None:
    image = str(many)
    if kind == "archive":
        subprocess.run(["tar", "cf", f"{many}.tar", "-C", many, "."], check=True)
        image = f"oci-archive:{many}.tar"
    mountpoint = ocifs.mountpoint()
    for files in (20, 40, 60, 80) if kind == "directory" else (20, 40):
        for verb in (["mount", image, mountpoint], ["ls", image], ["verify", image]):
            complaint = limited(ocifs, files).complaint(6, *verb)
            # A module that cannot be opened is reported as such: which file is the last one depends on the threads.
            assert "cannot load " in complaint or f"too many open files: {files} are allowed" in complaint
            assert "raise the limit" in complaint
            assert "ulimit -n" in complaint


def test_any_number_of_open_files_is_enough_or_said_to_be_too_few(ocifs: Ocifs, many: Path) -> None:
    """The daemon and the command meet the limit in different places."""
    ocifs.output("index", many)
    mountpoint = ocifs.mountpoint()
    codes = []
    for files in range(2 * _LAYERS, 2 * _LAYERS + 24, depth(3, 1)):
        result = limited(ocifs, files).run("mount", many, mountpoint)
        codes.append(result.code)
        assert result.code == 0 or "too many open files" in result.err, result
        if result.code == 0:
            assert len(os.listdir(mountpoint)) == _LAYERS
            assert (mountpoint / "007").read_bytes() == b"7"
            ocifs.output("umount", mountpoint)
        assert ocifs.leftovers() == []
    assert codes == sorted(codes, reverse=True)
    assert {codes[0], codes[-1]} == {6, 0}


@contextmanager
def filesystem(place: Path, *options: str) -> Iterator[Path]:
    """Mount a tmpfs."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(("mode=0700", *options)), "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


_CONTENT = random.Random(9).randbytes(1 << 20)


@pytest.fixture
def reframed(tmp_path: Path) -> Path:
    """An image whose LayerIndex holds a copy of the layer, 1 MiB that does not compress, and many names."""
    members = [file(b"content", _CONTENT), *(file(b"name-%d" % number) for number in range(3000))]
    layer = Layer(tar(members) + bytes(20 << 20), "zstd")
    return write_layout(tmp_path / "reframed", Image(layers=(layer,)))


@pytest.mark.parametrize("size", depth([16, 200, 1200], [4, 8, 16, 32, 64, 128, 200, 400, 800, 1100, 1200, 1300, 2000]))
def test_a_cache_without_room_is_done_without(ocifs: Ocifs, reframed: Path, root: None, size: int) -> None:
    with filesystem(ocifs.home / "small", f"size={size}k") as cache:
        mountpoint = ocifs.mountpoint()
        result = ocifs.run("mount", "--cache-dir", cache, reframed, mountpoint)
        assert result.code == 0
        assert result.err.count("\n") <= 1
        assert not result.err or result.err.startswith("ocifs: warning: "), result
        assert "No space left on device" in result.err or not result.err
        assert (mountpoint / "content").read_bytes() == _CONTENT
        assert len(os.listdir(mountpoint)) == 3001
        assert list(cache.glob("entries/*.tmp")) == []
        ocifs.output("umount", mountpoint)


@pytest.mark.parametrize("engine", ["fuse"], indirect=True)
def test_a_cache_that_is_read_only_is_used_as_far_as_it_goes(ocifs: Ocifs, reframed: Path, root: None) -> None:
    with filesystem(ocifs.home / "cache-disk") as cache:
        ocifs.output("index", "--cache-dir", cache, reframed)
        subprocess.run(["mount", "-o", "remount,ro", cache], check=True)
        ocifs.output("ls", "--cache-dir", cache, reframed)  # all is there
        subprocess.run(["mount", "-o", "remount,rw", cache], check=True)
        for entry in (cache / "entries").iterdir():
            entry.unlink()
        subprocess.run(["mount", "-o", "remount,ro", cache], check=True)
        result = ocifs.run("cat", "--cache-dir", cache, reframed, "content")
        assert (result.code, result.out) == (0, _CONTENT)
        assert result.err == f"ocifs: warning: cache directory {cache}: Read-only file system: continuing without it\n"


@pytest.mark.parametrize("engine", ["fuse"], indirect=True)
@pytest.mark.parametrize("closed", ["", "entries"])
def test_a_cache_that_cannot_be_written_is_done_without(user: Ocifs, root: None, engine: str, closed: str) -> None:
    image = write_layout(user.home / "image", Image(layers=(Layer(tar([file(b"hello", b"hello\n")])),)))
    other = write_layout(user.home / "other", Image(layers=(Layer(tar([file(b"other", b"")])),)))
    user.output("index", other)  # creates the cache
    (user.cache / closed).chmod(0o500)
    result = user.run("cat", image, "hello")
    assert (result.code, result.out) == (0, b"hello\n")
    if closed:
        assert "Permission denied: continuing without it" in result.err
    else:
        assert result.err == ""  # what is in it can be


class Cgroup:
    """A cgroup with a limit on memory, of either version."""

    def __init__(self, path: Path, limit: str, peak: str, events: str) -> None:
        self.path = path
        self.limit = path / limit
        self.peak = path / peak
        self.events = path / events

    def killed(self) -> int:
        (count,) = (line.split()[1] for line in self.events.read_text().splitlines() if line.startswith("oom_kill "))
        return int(count)


@pytest.fixture
def cgroup(root: None) -> Iterator[Cgroup]:
    """A cgroup of 128 MiB."""
    name = f"ocifs-test-{os.getpid()}"
    base = Path("/sys/fs/cgroup")
    if (base / "cgroup.subtree_control").exists() and "memory" in (base / "cgroup.subtree_control").read_text():
        made = Cgroup(base / name, "memory.max", "memory.peak", "memory.events")
    elif (base / "memory/memory.limit_in_bytes").exists():
        made = Cgroup(
            base / "memory" / name, "memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control"
        )
    else:
        pytest.skip("no cgroup with a limit on memory can be made here")
    try:
        made.path.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {error.strerror}")
    made.limit.write_text(str(128 << 20))
    yield made
    deadline = time.monotonic() + 10
    while True:
        try:
            made.path.rmdir()
        except OSError:  # a process in it has ended, and its parent has not waited for it yet
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            break


_ENTRIES = depth(50_000, 500_000)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory, session_ocifs: Ocifs) -> tuple[Path, Path]:
    """A large image, and a cache that has it."""
    made = tmp_path_factory.mktemp("synthetic")
    script = Path(__file__).parents[2] / "scripts/synthetic_image.py"
    subprocess.run([sys.executable, script, made / "image", "--files", str(_ENTRIES), "--layers", "10"], check=True)
    session_ocifs.output("index", "--cache-dir", made / "cache", made / "image")
    return made / "image", made / "cache"


def test_a_large_image_is_served_in_128_mib(ocifs: Ocifs, synthetic: tuple[Path, Path], cgroup: Cgroup) -> None:
    image, cache = synthetic
    inside = replace(
        ocifs, become=("sh", "-c", f'echo $$ >{cgroup.path}/cgroup.procs; exec "$@"', "sh"),
    )  # fmt: skip
    with inside.mounted(image, "--cache-dir", str(cache)) as mountpoint:
        seen = sum(len(names) for _, _, names in os.walk(mountpoint))
        assert _ENTRIES * 0.9 < seen < _ENTRIES
        layer = mountpoint / "usr/share/layer009"
        for index in random.Random(1).sample(range(_ENTRIES // 10), 500):
            name = f"{index // 100:05}/file{index:07}.{'so' if index % 7 else 'txt'}"
            assert (layer / name).read_bytes() == f"9 {index}\n".encode() * (1 + index % 50)
        (daemon,) = inside.processes()
        assert str(daemon) in (cgroup.path / "cgroup.procs").read_text().split()
    assert inside.leftovers() == []
    assert cgroup.killed() == 0
