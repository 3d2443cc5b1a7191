"""A disk that does not answer: here another mount, which holds the image, and whose daemon is stopped (SIGSTOP)."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.images import Image, Layer, layout_files, write_layout
from tests.tars import file, tar

_SPAN = 1 << 20
_SPANS = 24
_EIO = pytest.raises(OSError, match=os.strerror(errno.EIO))


def content(span: int) -> bytes:
    return b"%06d" % span * (_SPAN // 6 + 1)


class Disk:
    """A mount that holds a layout, and can be stopped."""

    def __init__(self, image: Path, daemon: int) -> None:
        self.image = image
        self._daemon = daemon

    def stop(self) -> None:
        for blob in (self.image / "blobs/sha256").iterdir():
            with blob.open() as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.kill(self._daemon, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._daemon, signal.SIGCONT)


@pytest.fixture
def disk(ocifs: Ocifs, tmp_path: Path) -> Iterator[Disk]:
    """A disk with an image of one layer, not compressed, that has a file `apart` and one for each span."""
    members = [file(b"%02d" % span, content(span)) for span in range(_SPANS)]
    inner = layout_files(Image(layers=(Layer(tar(members), "tar"),)))
    outer = [file(os.fsencode(f"layout/{name}"), data) for name, data in inner.items()]
    with ocifs.mounted(
        write_layout(tmp_path / "disk", Image(layers=(Layer(tar(outer), "tar"),))), "--engine", "fuse"
    ) as mountpoint:
        (daemon,) = ocifs.processes()
        disk = Disk(mountpoint / "layout", daemon)
        yield disk
        disk.go_on()


def read(mountpoint: Path, span: int) -> bytes:
    """Read a file that lies in the span of this number, or in it and the next."""
    with (mountpoint / f"{span:02}").open("rb", buffering=0) as opened:
        return os.pread(opened.fileno(), 4096, _SPAN // 2)


def right(span: int) -> bytes:
    return content(span)[_SPAN // 2 :][:4096]


def test_a_read_ends_and_others_go_on_and_all_is_well_afterwards(ocifs: Ocifs, disk: Disk) -> None:
    with ocifs.mounted(disk.image, "--read-timeout", "2") as mountpoint:
        assert read(mountpoint, 0) == right(0)
        disk.stop()
        with ThreadPoolExecutor(1) as threads:
            began = time.monotonic()
            waiting = threads.submit(read, mountpoint, 8)
            for _ in range(10):
                assert read(mountpoint, 0) == right(0)
                os.stat(mountpoint / "20")
            assert not waiting.done()
            with _EIO:
                waiting.result()
            assert time.monotonic() - began > 1.9
        disk.go_on()
        assert [read(mountpoint, span) for span in range(_SPANS)] == [right(span) for span in range(_SPANS)]
    lines = ocifs.log.read_text().splitlines()
    assert len(lines) == 1
    assert "no bytes within 2 s: check the disk that holds them" in lines[0]
    assert "layer sha256:" in lines[0]


def test_more_readers_than_threads_are_all_told_in_time(ocifs: Ocifs, disk: Disk) -> None:
    with ocifs.mounted(disk.image, "--read-timeout", "1") as mountpoint:
        disk.stop()
        for _ in range(2):
            with ThreadPoolExecutor(_SPANS) as threads:
                for each in [threads.submit(read, mountpoint, span) for span in range(_SPANS)]:
                    with _EIO:
                        each.result(timeout=20)
        disk.go_on()
        assert [read(mountpoint, span) for span in range(_SPANS)] == [right(span) for span in range(_SPANS)]


def test_unmounting_does_not_wait_for_the_disk(ocifs: Ocifs, disk: Disk) -> None:
    with ocifs.mounted(disk.image) as mountpoint, ThreadPoolExecutor(1) as threads:
        disk.stop()
        waiting = threads.submit(read, mountpoint, 8)
        time.sleep(0.2)
        began = time.monotonic()
        ocifs.output("umount", "--lazy", mountpoint)
        (daemon,) = (
            mount["pid"]
            for mount in json.loads(ocifs.output("mounts", "--json"))
            if mount["mountpoint"] == str(mountpoint)
        )
        os.kill(daemon, signal.SIGTERM)
        with pytest.raises(OSError, match=r"not connected|abort|Input/output"):
            waiting.result(timeout=20)
        while Path(f"/proc/{daemon}").exists():
            time.sleep(0.02)
        assert time.monotonic() - began < 10


def test_a_killed_reader_is_gone_by_the_deadline(ocifs: Ocifs, disk: Disk) -> None:
    with ocifs.mounted(disk.image, "--read-timeout", "2") as mountpoint:
        disk.stop()
        reader = subprocess.Popen([sys.executable, "-c", f"open('{mountpoint}/08').read()"], stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        reader.kill()
        assert reader.wait(timeout=5) == -signal.SIGKILL
