"""A tmpfs stands for whatever is mounted; each mount here is seen by these tests only, or lies below tmp_path."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ocifs.mount import syscalls
from ocifs.mount.mountinfo import mount_at, mount_table

pytestmark = pytest.mark.usefixtures("root")


@contextmanager
def new_tmpfs(attributes: int = 0) -> Iterator[int]:
    made = syscalls.new_mount("tmpfs", {"source": "ours", "size": "64k", "inode64": None}, attributes)
    try:
        yield made
    finally:
        os.close(made)


@contextmanager
def mounted(place: Path) -> Iterator[None]:
    with new_tmpfs() as mount:
        syscalls.attach(mount, str(place))
    try:
        yield
    finally:
        if mount_at(str(place)):
            syscalls.umount(str(place), lazy=True)


def test_a_file_system_that_the_kernel_knows() -> None:
    syscalls.check_filesystem("tmpfs")


def test_a_file_system_that_the_kernel_does_not_know() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENODEV)) as caught:
        syscalls.check_filesystem("no-such-file-system")
    assert caught.value.errno == errno.ENODEV


def test_a_new_mount_is_of_use_and_lies_nowhere() -> None:
    before = mount_table()
    with new_tmpfs() as mount:
        os.mkdir("inside", dir_fd=mount)
        assert os.stat("inside", dir_fd=mount).st_dev == os.stat(mount).st_dev
        assert os.stat(mount).st_dev not in {os.stat("/").st_dev, os.stat(".").st_dev}
        mine = f"{os.major(os.stat(mount).st_dev)}:{os.minor(os.stat(mount).st_dev)}"
        assert mine not in {each.device for each in (*before, *mount_table())}


@pytest.mark.parametrize(
    ("attributes", "flags"),
    [
        (0, 0),
        (syscalls.MOUNT_ATTR_RDONLY, os.ST_RDONLY),
        (syscalls.MOUNT_ATTR_NOSUID, os.ST_NOSUID),
        (syscalls.MOUNT_ATTR_NODEV, 4),
        (syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID, os.ST_RDONLY | os.ST_NOSUID),
    ],
)
def test_attributes_of_a_mount(attributes: int, flags: int) -> None:
    with new_tmpfs(attributes) as mount:
        assert os.statvfs(f"/proc/self/fd/{mount}").f_flag & (os.ST_RDONLY | os.ST_NOSUID | 4) == flags


def test_a_refusal_has_the_kernel_s_own_words() -> None:
    with pytest.raises(OSError, match=r"Invalid argument \(tmpfs: Unknown parameter 'no-such-option'\)") as caught:
        syscalls.new_mount("tmpfs", {"no-such-option": None}, 0)
    assert caught.value.errno == errno.EINVAL


def test_a_refusal_leaves_no_file_open() -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="no-such-option"):
        syscalls.new_mount("tmpfs", {"no-such-option": "value"}, 0)
    assert os.listdir("/proc/self/fd") == before


def test_it_is_attached_and_unmounted(tmp_path: Path) -> None:
    with mounted(tmp_path):
        there = mount_at(str(tmp_path))
        assert there is not None
        assert (there.fstype, there.source, there.digest) == ("tmpfs", "ours", None)
        syscalls.umount(str(tmp_path), lazy=False)
        assert mount_at(str(tmp_path)) is None


def test_it_is_attached_to_nothing_that_is_missing(tmp_path: Path) -> None:
    with new_tmpfs() as mount, pytest.raises(FileNotFoundError):
        syscalls.attach(mount, str(tmp_path / "absent"))


def test_what_is_in_use_is_unmounted_lazily_only(tmp_path: Path) -> None:
    with mounted(tmp_path), (tmp_path / "file").open("w"):
        with pytest.raises(OSError, match="busy"):
            syscalls.umount(str(tmp_path), lazy=False)
        syscalls.umount(str(tmp_path), lazy=True)
        assert mount_at(str(tmp_path)) is None


def test_no_symlink_is_followed(tmp_path: Path) -> None:
    place, link = tmp_path / "place", tmp_path / "link"
    place.mkdir()
    link.symlink_to(place)
    with mounted(place):
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            syscalls.umount(str(link), lazy=True)
        assert mount_at(str(place))


def test_a_thread_gets_a_directory_of_its_own(tmp_path: Path) -> None:
    here = os.getcwd()
    there = []

    def move() -> None:
        syscalls.unshare_directory()
        os.chdir(tmp_path)
        there.append(os.getcwd())

    thread = threading.Thread(target=move)
    thread.start()
    thread.join()
    assert (there, os.getcwd()) == ([str(tmp_path)], here)


def test_no_namespace_is_entered_by_any_other_file() -> None:
    with Path("/proc/self/status").open() as file, pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        syscalls.enter_mount_namespace(file.fileno())


def test_a_c_library_that_lacks_a_call_is_named() -> None:
    with pytest.raises(OSError, match="the C library has no fsopen3"):
        syscalls._call("fsopen3")


def test_each_mount_has_an_id_of_its_own(tmp_path: Path) -> None:
    below = syscalls.mount_id(str(tmp_path))
    if below is None:
        pytest.skip("this kernel gives mounts no IDs of their own")
    seen: set[int | None] = {below}
    for _ in range(3):
        with mounted(tmp_path):
            (tmp_path / "file").touch()
            there = syscalls.mount_id(str(tmp_path))
            assert there == syscalls.mount_id(str(tmp_path / "file"))
        assert there not in seen
        seen |= {there}
    assert syscalls.mount_id(str(tmp_path)) == below
    assert syscalls.mount_id(str(tmp_path / "missing")) is None
