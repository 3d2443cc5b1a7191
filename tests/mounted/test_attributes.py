"""What stat(2), readlink(2) and getxattr(2) say of each type of file."""

import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.mounted.posix_image import (
    ACL,
    BIG,
    CAPABILITY,
    LATIN_NAME,
    LONGEST_NAME,
    LONGEST_TARGET,
    NEWLINE_NAME,
    SPARSE,
)

ABSENT = {"user.absent", "trusted.overlay.opaque", "security.selinux", "system.posix_acl_access"}


def status(mount: bytes, name: bytes) -> os.stat_result:
    return os.lstat(os.path.join(mount, name))


@pytest.mark.parametrize(
    ("name", "mode", "owner", "size"),
    [
        (b"regular", stat.S_IFREG | 0o640, (1000, 1001), 13),
        (b"empty", stat.S_IFREG | 0o644, (0, 0), 0),
        (b"setuid", stat.S_IFREG | 0o4755, (0, 0), 12),
        (b"dir", stat.S_IFDIR | 0o750, (1000, 1001), None),
        (b"sticky", stat.S_IFDIR | 0o1777, (0, 0), None),
        (b"link", stat.S_IFLNK | 0o777, (0, 0), 7),
        (b"long-link", stat.S_IFLNK | 0o777, (0, 0), 4095),
        (b"null", stat.S_IFCHR | 0o666, (0, 0), 0),
        (b"disk", stat.S_IFBLK | 0o660, (0, 6), 0),
        (b"fifo", stat.S_IFIFO | 0o666, (0, 0), 0),
        (b"big", stat.S_IFREG | 0o644, (0, 0), len(BIG)),
        (b"sparse", stat.S_IFREG | 0o644, (0, 0), len(SPARSE)),
        (b"", stat.S_IFDIR | 0o755, (0, 0), None),
    ],
)
def test_type_mode_owner_and_size(posix: bytes, name: bytes, mode: int, owner: tuple[int, int], size: int) -> None:
    found = status(posix, name)
    assert (oct(found.st_mode), (found.st_uid, found.st_gid)) == (oct(mode), owner)
    assert size is None or found.st_size == size


@pytest.mark.parametrize(
    ("name", "mtime_ns"),
    [
        (b"", 1_000_000_000 * 10**9),
        (b"regular", 1_500_000_000 * 10**9),
        (b"nanoseconds", 1234567890_123456789),
        (b"before-epoch", -14182940_876543211),
    ],
)
def test_times_have_nanoseconds_before_the_epoch_too(posix: bytes, name: bytes, mtime_ns: int) -> None:
    found = status(posix, name)
    assert (found.st_mtime_ns, found.st_atime_ns, found.st_ctime_ns) == (mtime_ns,) * 3


@pytest.mark.parametrize(("name", "device"), [(b"null", (1, 3)), (b"disk", (7, 300))])
def test_devices_have_their_numbers(posix: bytes, name: bytes, device: tuple[int, int]) -> None:
    rdev = status(posix, name).st_rdev
    assert (os.major(rdev), os.minor(rdev)) == device


def test_blocks_are_what_the_size_takes_and_fewer_where_there_are_holes(posix: bytes) -> None:
    big, sparse = status(posix, b"big"), status(posix, b"sparse")
    assert big.st_blocks * 512 >= big.st_size
    assert big.st_blocks * 512 < big.st_size + 4096
    assert sparse.st_blocks * 512 <= sparse.st_size + 4096


def test_the_block_size_is_a_page_and_to_erofs_that_of_tar(posix: bytes, engine: str) -> None:
    assert status(posix, b"big").st_blksize == {"fuse": 4096, "erofs": 512}[engine]


def test_hard_links_are_one_inode_across_layers(posix: bytes) -> None:
    found = [status(posix, name) for name in (b"regular", b"again", b"third")]
    assert len({(each.st_dev, each.st_ino) for each in found}) == 1
    assert [each.st_nlink for each in found] == [3, 3, 3]
    assert status(posix, b"big").st_nlink == 1


def test_files_have_inode_numbers_of_their_own(posix: bytes) -> None:
    numbers = [entry.inode() for entry in os.scandir(posix)]
    assert min(numbers) > 1
    assert max(numbers) < 2**63
    assert len(set(numbers)) == len(numbers) - 2  # three names, one file


def test_inode_numbers_outlive_a_remount_and_a_new_index(ocifs: Ocifs, posix_image: Path, posix: bytes) -> None:
    before = {entry.name: entry.inode() for entry in os.scandir(posix)}
    for _ in range(2):  # its own cache is cold, then warm
        with ocifs.mounted(posix_image) as mountpoint:
            assert {entry.name: entry.inode() for entry in os.scandir(bytes(mountpoint))} == before


def test_lower_entries_under_a_whiteout_are_gone(posix: bytes) -> None:
    with pytest.raises(FileNotFoundError):
        status(posix, b"lower")
    with pytest.raises(FileNotFoundError):
        status(posix, b".wh.lower")


@pytest.mark.parametrize(
    ("name", "content"), [(LONGEST_NAME, b"long"), (LATIN_NAME, b"latin"), (NEWLINE_NAME, b"newline")]
)
def test_any_name_is_found(posix: bytes, name: bytes, content: bytes) -> None:
    assert Path(os.fsdecode(os.path.join(posix, name))).read_bytes() == content
    assert name in os.listdir(posix)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (b"x" * 256, errno.ENAMETOOLONG),
        (b"absent", errno.ENOENT),
        (b"regular/below", errno.ENOTDIR),
        (b"dangling/below", errno.ENOENT),
    ],
)
def test_what_cannot_be_found(posix: bytes, name: bytes, error: int) -> None:
    for _ in range(2):  # the second time from the kernel's memory
        with pytest.raises(OSError, match=os.strerror(error)):
            status(posix, name)


def test_dots_at_the_root_stay_there(posix: bytes) -> None:
    assert os.path.samestat(status(posix, b"."), status(posix, b""))
    assert os.path.samestat(status(posix, b"sticky/.."), status(posix, b""))
    assert status(posix, b"..").st_dev != status(posix, b"").st_dev


@pytest.mark.parametrize(
    ("name", "target"),
    [(b"link", b"regular"), (b"dangling", b"no/where"), (b"absolute", b"/regular"), (b"long-link", LONGEST_TARGET)],
)
def test_symlink_targets_are_as_stored(posix: bytes, name: bytes, target: bytes) -> None:
    assert os.readlink(os.path.join(posix, name)) == target


def xattrs(mount: bytes, name: bytes) -> dict[str, bytes]:
    path = os.path.join(mount, name)
    names = os.listxattr(path, follow_symlinks=False)
    return {each: os.getxattr(path, each, follow_symlinks=False) for each in names}


def test_xattrs_are_those_of_the_image_without_the_hosts_own(posix: bytes) -> None:
    expected = {
        "user.note": b"a note",
        "user.empty": b"",
        "user.binary": bytes(range(256)),
        "security.capability": CAPABILITY,
    }
    if os.geteuid() == 0:
        expected["trusted.mine"] = b"trusted"
    assert xattrs(posix, b"attributed") == expected
    assert xattrs(posix, b"attributed-dir") == {"user.on": b"directory"}
    assert xattrs(posix, b"regular") == {}


def test_a_symlink_has_xattrs_of_its_own(posix: bytes, root: None) -> None:
    assert xattrs(posix, b"attributed-link") == {"trusted.on": b"link"}


@pytest.mark.parametrize("name", sorted(ABSENT))
def test_absent_xattrs_are_no_data(posix: bytes, name: str) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
        os.getxattr(os.path.join(posix, b"attributed"), name)


@pytest.mark.skipif(shutil.which("getcap") is None, reason="getcap is missing (Debian package libcap2-bin)")
def test_capabilities_are_seen_by_getcap(posix: bytes) -> None:
    shown = subprocess.run(["getcap", os.path.join(posix, b"attributed")], capture_output=True, text=True, check=True)
    assert shown.stdout.rstrip().endswith("cap_net_raw=ep")


def test_acls_are_served(posix: bytes) -> None:
    assert xattrs(posix, b"acl") == {"system.posix_acl_access": ACL}


def test_an_image_without_xattrs_has_none(ocifs: Ocifs, small: Path, engine: str) -> None:
    """By FUSE it is a file system that does not know of any, so that the kernel stops asking; EROFS knows of them."""
    with ocifs.mounted(small) as mountpoint:
        for _ in range(2):
            if engine == "erofs":
                assert os.listxattr(mountpoint / "hello") == []
            else:
                with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
                    os.listxattr(mountpoint / "hello")
            absent = errno.ENODATA if engine == "erofs" else errno.EOPNOTSUPP
            with pytest.raises(OSError, match=os.strerror(absent)):
                os.getxattr(mountpoint / "hello", "user.note")


def test_statfs_says_read_only_and_full(posix: bytes) -> None:
    found = os.statvfs(posix)
    assert found.f_flag & os.ST_RDONLY
    assert found.f_flag & os.ST_NOSUID
    assert found.f_flag & 4  # ST_NODEV
    assert (found.f_bfree, found.f_bavail, found.f_namemax) == (0, 0, 255)
    # Of 2**64 - 1 files, as the kernel's EROFS counts, all that there are not are free.
    assert 5000 < found.f_files - found.f_ffree < 6000
    assert found.f_blocks * found.f_frsize > len(BIG)
