"""File bytes, by every way the kernel has to get at them."""

import ctypes
import errno
import fcntl
import mmap
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.images import Image, Layer, write_layout
from tests.mounted.posix_image import BIG, HOLE, SPARSE
from tests.tars import file, tar
from tests.waiting import wait_for

_libc = ctypes.CDLL(None, use_errno=True)
_FS_IOC_GETFLAGS = 0x80086601
_SPAN = 1 << 20


@contextmanager
def opened(mount: bytes, name: bytes, flags: int = 0) -> Iterator[int]:
    fd = os.open(os.path.join(mount, name), os.O_RDONLY | flags)
    try:
        yield fd
    finally:
        os.close(fd)


def drop_cached_pages(fd: int) -> None:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("size", [0, 1, 511, 4096, 4097, 131072, 3 * _SPAN])
def test_any_range_is_right(posix: bytes, size: int) -> None:
    edges = [0, 4096, _SPAN, 2 * _SPAN, 4 * _SPAN, len(BIG)]
    with opened(posix, b"big") as fd:
        drop_cached_pages(fd)
        for offset in sorted({max(0, edge + step) for edge in edges for step in (-size, -1, 0, 1)}):
            assert os.pread(fd, size, offset) == BIG[offset : offset + size], offset


def test_the_kernel_reads_a_mebibyte_ahead_once_the_start_is_recorded(posix: bytes, engine: str) -> None:
    if engine != "fuse":
        pytest.skip("the file system that the kernel reads ahead in is not attached anywhere")
    device = os.stat(posix).st_dev
    setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    if not os.access(setting, os.W_OK):
        pytest.skip(f"{setting} may not be written")
    Path(os.fsdecode(posix), "big").read_bytes()
    wait_for(lambda: setting.read_text() == "1024\n")


def test_there_is_nothing_beyond_the_end(posix: bytes) -> None:
    with opened(posix, b"big") as fd:
        assert os.pread(fd, 10, len(BIG)) == b""
        assert os.pread(fd, 10, 1 << 40) == b""
    assert Path(os.fsdecode(posix), "empty").read_bytes() == b""


def test_many_threads_read_right_bytes(posix: bytes) -> None:
    places = [random.Random(3).randrange(len(BIG)) for _ in range(400)]

    def reads_right(offset: int) -> bool:
        with opened(posix, b"big") as fd:
            drop_cached_pages(fd)
            return os.pread(fd, 5000, offset) == BIG[offset : offset + 5000]

    with ThreadPoolExecutor(32) as threads:
        assert all(threads.map(reads_right, places))


def test_holes_read_as_zeros(posix: bytes) -> None:
    with opened(posix, b"sparse") as fd:
        assert os.pread(fd, len(SPARSE) + 1, 0) == SPARSE
        assert os.pread(fd, 1024, HOLE - 512) == SPARSE[HOLE - 512 : HOLE + 512]


def test_seek_data_and_hole(posix: bytes) -> None:
    with opened(posix, b"sparse") as fd:
        data, hole = os.lseek(fd, 0, os.SEEK_DATA), os.lseek(fd, 0, os.SEEK_HOLE)
        assert SPARSE[:data].strip(b"\0") == b""
        assert SPARSE[hole : hole + 1].strip(b"\0") == b""
        with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
            os.lseek(fd, len(SPARSE), os.SEEK_DATA)


@pytest.mark.parametrize("flags", [mmap.MAP_SHARED, mmap.MAP_PRIVATE])
def test_mmap(posix: bytes, flags: int) -> None:
    with opened(posix, b"big") as fd, mmap.mmap(fd, 0, flags=flags, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == BIG


def test_a_private_mapping_may_be_written(posix: bytes) -> None:
    with opened(posix, b"open") as fd:
        with mmap.mmap(fd, 0, access=mmap.ACCESS_COPY) as mapped:
            mapped[:3] = b"not"
            assert mapped[:] == b"not all"
        assert os.pread(fd, 7, 0) == b"for all"


def test_direct_io(posix: bytes, engine: str) -> None:
    if engine == "erofs":  # on a file the kernel has it only with `-o directio`, which loses read-ahead
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)), opened(posix, b"big", os.O_DIRECT):
            pass
        return
    with opened(posix, b"big", os.O_DIRECT) as fd, mmap.mmap(-1, 8192) as aligned:
        assert os.preadv(fd, [aligned], _SPAN - 4096) == 8192
        assert aligned[:] == BIG[_SPAN - 4096 : _SPAN + 4096]


def test_sendfile_copies_out(posix: bytes, tmp_path: Path) -> None:
    with opened(posix, b"big") as source, (tmp_path / "copy").open("wb") as out:
        sent = os.sendfile(out.fileno(), source, 1, len(BIG))
    assert sent > 0
    assert (tmp_path / "copy").read_bytes() == BIG[1 : sent + 1]


def test_cp_copies_out(posix: bytes, tmp_path: Path) -> None:
    subprocess.run(["cp", os.path.join(posix, b"big"), os.path.join(posix, b"sparse"), tmp_path], check=True)
    assert (tmp_path / "big").read_bytes() == BIG
    assert (tmp_path / "sparse").read_bytes() == SPARSE


def test_splice_into_a_pipe(posix: bytes) -> None:
    into, out = os.pipe()
    try:
        with opened(posix, b"big") as source:
            moved = os.splice(source, out, 4096, offset_src=_SPAN - 100)
        assert os.read(into, 4096) == BIG[_SPAN - 100 : _SPAN - 100 + moved]
    finally:
        os.close(into)
        os.close(out)


def test_a_script_runs(posix: bytes) -> None:
    ran = subprocess.run([os.path.join(posix, b"script"), "with", "arguments"], capture_output=True, check=True)
    assert ran.stdout == b"ran with arguments\n"


def test_what_has_no_x_bit_does_not_run_even_for_root(posix: bytes) -> None:
    with pytest.raises(PermissionError):
        subprocess.run([os.path.join(posix, b"not-executable")], check=False)


def test_a_dynamically_linked_program_runs(posix: bytes, ocifs: Ocifs, tmp_path: Path) -> None:
    program = shutil.which("true")
    assert program is not None
    members = [file(b"true", Path(program).read_bytes(), mode=0o755)]
    with ocifs.mounted(write_layout(tmp_path / "program", Image(layers=(Layer(tar(members)),)))) as mountpoint:
        subprocess.run([mountpoint / "true"], check=True)


def test_device_nodes_do_not_open(posix: bytes) -> None:
    with pytest.raises(PermissionError), opened(posix, b"null"):
        pass


def test_a_fifo_joins_a_reader_and_a_writer(posix: bytes) -> None:
    path = os.path.join(posix, b"fifo")
    with ThreadPoolExecutor(1) as threads:
        said = threads.submit(lambda: Path(os.fsdecode(path)).read_bytes())
        Path(os.fsdecode(path)).write_bytes(b"through")
        assert said.result(10) == b"through"


def test_read_locks(posix: bytes) -> None:
    with opened(posix, b"open") as one, opened(posix, b"open") as other:
        for fd in (one, other):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with pytest.raises(BlockingIOError):
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_inotify_sees_what_is_opened(posix: bytes) -> None:
    watcher = _libc.inotify_init1(os.O_NONBLOCK)
    try:
        assert _libc.inotify_add_watch(watcher, posix, 0x20) > 0  # IN_OPEN
        with opened(posix, b"open"):
            pass
        _, mask, _, length = struct.unpack_from("iIII", event := os.read(watcher, 4096))
        assert (mask, event[16 : 16 + length].rstrip(b"\0")) == (0x20, b"open")
    finally:
        os.close(watcher)


def test_flags_are_refused_cleanly(posix: bytes) -> None:
    with opened(posix, b"open") as fd:
        with pytest.raises(OSError, match=os.strerror(errno.ENOTTY)):
            fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(8))
        assert os.pread(fd, 7, 0) == b"for all"
