"""System calls that few programs use: each gives the right bytes, or a clean error."""

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.mounted.posix_image import BIG, CAPABILITY, SPARSE

_libc = ctypes.CDLL(None, use_errno=True)
_SPAN = 1 << 20
_AT_FDCWD = -100
_FS_IOC_FIEMAP = 0xC020660B
_MAX_HANDLE = 128


def checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


@contextmanager
def opened(mount: bytes, name: bytes, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(os.path.join(mount, name), flags)
    try:
        yield fd
    finally:
        os.close(fd)


def test_copy_file_range_copies_out_or_says_that_it_cannot(posix: bytes, tmp_path: Path) -> None:
    with opened(posix, b"big") as source, (tmp_path / "copy").open("w+b") as out:
        try:
            copied = os.copy_file_range(source, out.fileno(), 3 * _SPAN, offset_src=_SPAN - 7)
        except OSError as error:
            assert error.errno in {errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL}  # noqa: PT017 - either will do
            return
        assert copied > 0
        assert out.read() == BIG[_SPAN - 7 : _SPAN - 7 + copied]


def test_copy_file_range_cannot_copy_in(posix: bytes, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x")
    with (
        (tmp_path / "source").open("rb") as source,
        opened(posix, b"open") as target,
        pytest.raises(OSError, match=os.strerror(errno.EBADF)),
    ):
        os.copy_file_range(source.fileno(), target, 1)


def test_tee_and_vmsplice_of_what_was_spliced(posix: bytes) -> None:
    one, two = os.pipe(), os.pipe()
    try:
        with opened(posix, b"big") as source:
            moved = os.splice(source, one[1], 8192, offset_src=2 * _SPAN - 100)
        doubled = checked(_libc.tee(one[0], two[1], moved, 0))
        expected = BIG[2 * _SPAN - 100 :][:moved]
        assert os.read(one[0], moved) == expected
        assert os.read(two[0], doubled) == expected[:doubled]
    finally:
        for fd in (*one, *two):
            os.close(fd)


def test_vectors_are_filled_in_order(posix: bytes) -> None:
    pieces = [bytearray(size) for size in (1, 4095, 0, 70_000, 3)]
    with opened(posix, b"big") as fd:
        read = os.preadv(fd, pieces, _SPAN - 5)
    assert b"".join(pieces) == BIG[_SPAN - 5 : _SPAN - 5 + read]


def test_what_is_in_memory_can_be_read_without_waiting(posix: bytes) -> None:
    buffer = bytearray(4096)
    with opened(posix, b"big") as fd:
        os.pread(fd, 4096, 0)
        try:
            read = os.preadv(fd, [buffer], 0, os.RWF_NOWAIT)
        except OSError as error:
            assert error.errno in {errno.EAGAIN, errno.EOPNOTSUPP}  # noqa: PT017 - or not at all
        else:
            assert buffer[:read] == BIG[:read]


def test_advice_is_taken(posix: bytes) -> None:
    with opened(posix, b"big") as fd:
        for advice in (os.POSIX_FADV_WILLNEED, os.POSIX_FADV_SEQUENTIAL, os.POSIX_FADV_RANDOM, os.POSIX_FADV_DONTNEED):
            os.posix_fadvise(fd, 0, 0, advice)
        checked(_libc.readahead(fd, ctypes.c_int64(0), ctypes.c_size_t(_SPAN)))
        assert os.pread(fd, 10, 3 * _SPAN) == BIG[3 * _SPAN : 3 * _SPAN + 10]


def test_a_mapping_can_be_locked_and_advised(posix: bytes) -> None:
    with opened(posix, b"big") as fd, mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
        mapped.madvise(mmap.MADV_WILLNEED)
        address = ctypes.c_void_p(checked_address(fd))
        checked(_libc.mlock(address, ctypes.c_size_t(1 << 16)))
        checked(_libc.munmap(address, ctypes.c_size_t(1 << 16)))
        mapped.madvise(mmap.MADV_DONTNEED)
        assert mapped[_SPAN : _SPAN + 10] == BIG[_SPAN : _SPAN + 10]


def checked_address(fd: int) -> int:
    """Map the first 64 KiB, and return where."""
    _libc.mmap.restype = ctypes.c_void_p
    address = _libc.mmap(None, ctypes.c_size_t(1 << 16), mmap.PROT_READ, mmap.MAP_SHARED, fd, ctypes.c_int64(0))
    assert address not in {None, ctypes.c_void_p(-1).value}
    return int(address)


def test_no_shared_mapping_can_be_written(posix: bytes) -> None:
    with opened(posix, b"big") as fd, pytest.raises(PermissionError):
        mmap.mmap(fd, 4096, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)


@pytest.mark.parametrize(("whence", "data"), [(os.SEEK_DATA, True), (os.SEEK_HOLE, False)])
def test_seeking_data_and_holes_comes_to_an_end(posix: bytes, whence: int, data: bool) -> None:
    with opened(posix, b"sparse") as fd:
        at, seen = 0, b""
        while True:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as error:
                assert error.errno == errno.ENXIO  # noqa: PT017 - it is how this ends
                break
            at = os.lseek(fd, start, os.SEEK_HOLE)
            seen = seen.ljust(start, b"\0") + os.pread(fd, at - start, start)
        assert seen.ljust(len(SPARSE), b"\0") == SPARSE
        with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
            os.lseek(fd, 1 << 40, whence)
        assert os.lseek(fd, 7, os.SEEK_DATA) >= 7 or not data


def getxattr(path: bytes, name: bytes, size: int) -> tuple[int, bytes]:
    buffer = ctypes.create_string_buffer(max(size, 1))
    length = checked(_libc.lgetxattr(path, name, buffer, ctypes.c_size_t(size)))
    return length, buffer.raw[: min(length, size)]


def test_xattrs_are_measured_with_no_room_and_refused_with_too_little(posix: bytes) -> None:
    path = os.path.join(posix, b"attributed")
    assert getxattr(path, b"user.binary", 0) == (256, b"")
    assert getxattr(path, b"user.binary", 256) == (256, bytes(range(256)))
    assert getxattr(path, b"user.empty", 0) == (0, b"")
    assert getxattr(path, b"security.capability", 100) == (len(CAPABILITY), CAPABILITY)
    with pytest.raises(OSError, match=os.strerror(errno.ERANGE)):
        getxattr(path, b"user.binary", 255)
    length = checked(_libc.llistxattr(path, None, ctypes.c_size_t(0)))
    names = ctypes.create_string_buffer(length)
    assert checked(_libc.llistxattr(path, names, ctypes.c_size_t(length))) == length
    assert b"user.binary" in names.raw.split(b"\0")
    with pytest.raises(OSError, match=os.strerror(errno.ERANGE)):
        checked(_libc.llistxattr(path, names, ctypes.c_size_t(length - 1)))


@pytest.mark.parametrize("name", [b"user." + b"n" * 250, b"user.absent", b"trusted.absent"])
def test_xattrs_that_are_absent(posix: bytes, name: bytes, root: None) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
        getxattr(os.path.join(posix, b"attributed"), name, 100)


def test_xattr_names_that_cannot_be(posix: bytes) -> None:
    path = os.path.join(posix, b"attributed")
    with pytest.raises(OSError, match=os.strerror(errno.ERANGE)):
        getxattr(path, b"user." + b"n" * 251, 100)
    with pytest.raises(OSError, match=f"{os.strerror(errno.EOPNOTSUPP)}|{os.strerror(errno.ENODATA)}"):
        getxattr(path, b"nonsense.name", 100)


def test_a_map_of_extents_is_refused(posix: bytes) -> None:
    with opened(posix, b"big") as fd:
        request = ctypes.create_string_buffer(struct.pack("=QQIIII", 0, 1 << 40, 0, 0, 4, 0) + bytes(4 * 56))
        result = _libc.ioctl(fd, ctypes.c_ulong(_FS_IOC_FIEMAP), request)
        # EROFS has one, in which places in the served file are shown; it says nothing of the blobs.
        assert result == 0 or ctypes.get_errno() in {errno.EOPNOTSUPP, errno.ENOTTY}
        assert os.pread(fd, 10, 0) == BIG[:10]


class Handles:
    """Opens files by handle, as an NFS server does: name_to_handle_at(2), open_by_handle_at(2)."""

    def __init__(self, mountpoint: bytes) -> None:
        self._mountpoint = mountpoint

    def of(self, name: bytes) -> bytes:
        """Return the handle of a file, type and bytes. Raises OSError."""
        handle = ctypes.create_string_buffer(struct.pack("=Ii", _MAX_HANDLE, 0) + bytes(_MAX_HANDLE))
        checked(
            _libc.name_to_handle_at(
                _AT_FDCWD, os.path.join(self._mountpoint, name), handle, ctypes.byref(ctypes.c_int()), 0
            )
        )
        size, kind = struct.unpack_from("=Ii", handle.raw)
        return struct.pack("=i", kind) + handle.raw[8 : 8 + size]

    @contextmanager
    def opened(self, handle: bytes, flags: int = os.O_RDONLY) -> Iterator[int]:
        """Open the file that a handle names. Raises OSError."""
        with opened(self._mountpoint, b"", os.O_RDONLY | os.O_DIRECTORY) as top:
            fd = checked(_libc.open_by_handle_at(top, struct.pack("=I", len(handle) - 4) + handle, flags))
        try:
            yield fd
        finally:
            os.close(fd)


@pytest.fixture
def handles(posix: bytes, root: None) -> Handles:
    made = Handles(posix)
    try:
        made.of(b"open")
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        pytest.skip("this kernel has no file handles for the file system")
    return made


def forget_inodes() -> None:
    """Have the kernel drop the names and inodes that nothing uses."""
    Path("/proc/sys/vm/drop_caches").write_text("2")


_BY_HANDLE = [b"open", b"big", b"empty", b"sparse", b"setuid", b"again", b"dir", b"dir/inside", b"wide", b"."]


def test_a_handle_names_the_same_file_when_its_inode_was_dropped(posix: bytes, handles: Handles) -> None:
    kept = {name: (handles.of(name), os.lstat(os.path.join(posix, name))) for name in _BY_HANDLE}
    for _ in range(5):
        forget_inodes()
        for name, (handle, expected) in kept.items():
            with handles.opened(handle) as fd:
                assert os.fstat(fd) == expected, name
    forget_inodes()
    with handles.opened(kept[b"open"][0]) as fd:
        assert os.pread(fd, 100, 0) == b"for all"
    with handles.opened(kept[b"dir"][0]) as fd:
        assert os.listdir(fd) == ["inside"]


@pytest.mark.parametrize("name", [b"link", b"fifo", b"null", b"dangling"])
def test_a_handle_may_be_of_any_type_of_file(posix: bytes, handles: Handles, name: bytes) -> None:
    handle = handles.of(name)
    forget_inodes()
    with handles.opened(handle, os.O_PATH | os.O_NOFOLLOW) as fd:
        assert os.fstat(fd) == os.lstat(os.path.join(posix, name))


def test_the_parent_of_a_directory_opened_by_handle_is_found(posix: bytes, handles: Handles) -> None:
    handle = handles.of(b"dir")
    forget_inodes()
    with handles.opened(handle) as fd:
        assert os.stat("..", dir_fd=fd) == os.stat(posix)
        assert os.readlink(f"/proc/self/fd/{fd}") == os.fsdecode(os.path.join(posix, b"dir"))


def test_a_handle_that_names_nothing_is_stale(
    posix: bytes, handles: Handles, session_ocifs: Ocifs, engine: str
) -> None:
    logged = session_ocifs.log.read_text()
    kind_and_bytes = handles.of(b"open")
    forget_inodes()
    for byte in (0x00, 0x01, 0x7F, 0xFF):
        with (
            pytest.raises(OSError, match=os.strerror(errno.ESTALE)),
            handles.opened(kind_and_bytes[:4] + bytes([byte]) * (len(kind_and_bytes) - 4)),
        ):
            pass
    assert Path(os.fsdecode(posix), "open").read_bytes() == b"for all"
    assert session_ocifs.log.read_text() == logged


@pytest.mark.parametrize("engine", ["fuse"], indirect=True)  # that of the kernel's EROFS takes any number for an inode
def test_a_handle_of_a_place_between_two_inodes_is_stale(
    posix: bytes, handles: Handles, session_ocifs: Ocifs, engine: str
) -> None:
    """As one is that was made of another image."""
    logged = session_ocifs.log.read_text()
    kind_and_bytes = handles.of(b"open")
    nid = os.lstat(os.path.join(posix, b"open")).st_ino
    assert struct.unpack("=iIII", kind_and_bytes) == (0x81, 0, nid, 0)  # fuse_encode_fh
    with (
        pytest.raises(OSError, match=os.strerror(errno.ESTALE)),
        handles.opened(struct.pack("=iIII", 0x81, 0, nid + 1, 0)),
    ):
        pass
    assert session_ocifs.log.read_text() == logged


def test_statx_has_what_stat_has(posix: bytes) -> None:
    buffer = ctypes.create_string_buffer(256)
    path = os.path.join(posix, b"regular")
    checked(_libc.statx(_AT_FDCWD, path, 0x100, 0x7FF, buffer))
    mask, block, _, links, uid, gid, mode, inode, size = struct.unpack_from("=IIQIIIH2xQQ", buffer)
    status = os.lstat(path)
    assert mask & 0x79F == 0x79F  # all but atime and ctime, which EROFS has not
    assert (links, uid, gid, mode, inode, size) == (
        status.st_nlink,
        status.st_uid,
        status.st_gid,
        status.st_mode,
        status.st_ino,
        status.st_size,
    )
    assert block == status.st_blksize


def test_a_symlink_is_cut_to_the_room_that_there_is(posix: bytes) -> None:
    buffer = ctypes.create_string_buffer(b"#" * 16)
    assert checked(_libc.readlink(os.path.join(posix, b"link"), buffer, ctypes.c_size_t(3))) == 3
    assert buffer.raw[:4] == b"reg#"


def test_names_below_an_open_directory(posix: bytes) -> None:
    """`/proc/self/fd` and `openat` go through a directory of the mount as through any other."""
    with opened(posix, b"dir", os.O_RDONLY | os.O_DIRECTORY) as fd:
        inside = os.open("inside", os.O_RDONLY, dir_fd=fd)
        try:
            assert os.read(inside, 100) == b"inside"
            assert os.readlink(f"/proc/self/fd/{inside}").encode() == os.path.join(posix, b"dir/inside")
        finally:
            os.close(inside)
        assert os.stat("../open", dir_fd=fd).st_size == len(b"for all")
