"""The kernel's overlayfs on top of a mount: how a container gets its writable rootfs."""

import errno
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.mounted.posix_image import ACL, BIG, CAPABILITY, SPARSE, WIDE

_HIGHEST = 2
"""How many overlays the kernel puts on each other (FILESYSTEM_MAX_STACK_DEPTH)."""


@pytest.fixture
def tmpfs(tmp_path: Path, root: None) -> Iterator[Path]:
    """A file system that can be the upper layer, as an overlay in a container cannot."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


@contextmanager
def overlay(lower: Path, place: Path) -> Iterator[Path]:
    """Mount an overlay on `lower`, with `upper` and the merged tree in the new directory `place`."""
    upper, work, merged = (place / name for name in ("upper", "work", "merged"))
    for each in (place, upper, work, merged):
        each.mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work},redirect_dir=on,index=off,metacopy=off"
    mount = ["mount", "-t", "overlay", "-o", options, "overlay", str(merged)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(errno.EINVAL, done.stderr)
    try:
        yield merged
    finally:
        subprocess.run(["umount", merged], check=True)


@pytest.fixture
def merged(posix: bytes, tmpfs: Path) -> Iterator[Path]:
    with overlay(Path(os.fsdecode(posix)), tmpfs / "over") as mountpoint:
        yield mountpoint


def upper_of(merged: Path) -> Path:
    return merged.parent / "upper"


def is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def test_all_of_it_is_there(posix: bytes, merged: Path) -> None:
    for name in os.listdir(posix):
        below, above = os.lstat(os.path.join(posix, name)), os.lstat(os.path.join(bytes(merged), name))
        assert (above.st_mode, above.st_size, above.st_mtime_ns) == (below.st_mode, below.st_size, below.st_mtime_ns)
    assert len(os.listdir(merged / "wide")) == WIDE
    assert (merged / "big").read_bytes() == BIG
    assert os.listdir(upper_of(merged)) == []


def test_what_is_written_goes_up_whole_and_the_image_stays_as_it_was(posix: bytes, merged: Path) -> None:
    before = os.lstat(os.path.join(posix, b"big"))
    with (merged / "big").open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"written")
    expected = BIG[: 1 << 20] + b"written" + BIG[(1 << 20) + 7 :]
    assert (merged / "big").read_bytes() == (upper_of(merged) / "big").read_bytes() == expected
    assert Path(os.fsdecode(posix), "big").read_bytes() == BIG
    assert os.lstat(os.path.join(posix, b"big")) == before


def test_attributes_and_xattrs_go_up_with_a_file(merged: Path) -> None:
    for name in ("attributed", "acl", "sparse", "nanoseconds", "link", "fifo", "null"):
        before = (merged / name).lstat()
        os.chown(merged / name, 1, 2, follow_symlinks=False)
        after = (upper_of(merged) / name).lstat()
        assert (after.st_uid, after.st_gid) == (1, 2)
        assert (after.st_mode, after.st_size, after.st_mtime_ns, after.st_rdev) == (
            before.st_mode,
            before.st_size,
            before.st_mtime_ns,
            before.st_rdev,
        )
    assert os.getxattr(merged / "attributed", "user.note") == b"a note"
    assert os.getxattr(upper_of(merged) / "attributed", "user.binary") == bytes(range(256))
    assert os.getxattr(merged / "acl", "system.posix_acl_access") == ACL
    assert (upper_of(merged) / "sparse").read_bytes() == SPARSE


def test_capabilities_go_up_with_a_file(merged: Path) -> None:
    os.utime(merged / "attributed")
    assert os.getxattr(upper_of(merged) / "attributed", "security.capability") == CAPABILITY


def test_what_is_removed_is_a_whiteout(posix: bytes, merged: Path) -> None:
    (merged / "regular").unlink()
    subprocess.run(["rm", "-r", merged / "wide"], check=True)
    for name in ("regular", "wide"):
        assert not os.path.lexists(merged / name)
        assert is_whiteout(upper_of(merged) / name)
        assert os.path.lexists(os.path.join(posix, os.fsencode(name)))
    (merged / "wide").mkdir()
    assert os.listdir(merged / "wide") == []
    assert os.getxattr(upper_of(merged) / "wide", "trusted.overlay.opaque") == b"y"


def test_directories_are_renamed_and_not_copied(merged: Path) -> None:
    os.rename(merged / "wide", merged / "dir/broad")
    assert len(os.listdir(merged / "dir/broad")) == WIDE
    assert not (merged / "wide").exists()
    assert is_whiteout(upper_of(merged) / "wide")
    assert os.listdir(upper_of(merged) / "dir/broad") == []
    (merged / "dir/broad/new").touch()
    os.unlink(merged / "dir/broad/00007")
    assert len(os.listdir(merged / "dir/broad")) == WIDE


def test_a_new_hard_link_is_one_file_with_the_old_name(merged: Path) -> None:
    os.link(merged / "open", merged / "opened")
    (merged / "opened").write_text("anew")
    assert (merged / "open").read_text() == "anew"
    assert os.path.samefile(merged / "open", merged / "opened")
    assert (merged / "open").stat().st_nlink == 2


def test_the_names_of_a_hard_link_part_when_one_is_written(merged: Path) -> None:
    """That is overlayfs without `index=on`, on any lower layer."""
    assert os.path.samefile(merged / "regular", merged / "again")
    (merged / "regular").write_text("anew")
    assert (merged / "again").read_text() == "regular file\n"


def test_programs_run(merged: Path) -> None:
    assert subprocess.run([merged / "script", "it"], capture_output=True, check=True).stdout == b"ran it\n"


def test_overlays_are_stacked_as_high_as_the_kernel_goes(posix: bytes, tmpfs: Path, engine: str) -> None:
    top, height = Path(os.fsdecode(posix)), 0
    with ExitStack() as stack:
        while height < _HIGHEST:
            try:
                top = stack.enter_context(overlay(top, tmpfs / f"over{height}"))
            except OSError:
                break
            height += 1
            assert (top / "open").read_text() == "for all"
        with pytest.raises(OSError, match="mount"):
            stack.enter_context(overlay(top, tmpfs / "refused"))
    # Some kernels count EROFS on a file, too.
    assert height in ({_HIGHEST - 1, _HIGHEST} if engine == "erofs" else {_HIGHEST})
