import os
from pathlib import Path

import pytest

from ocifs.errors import MountError
from ocifs.mount.mountinfo import Mount, is_below, mount_at, mount_table, real_mountpoint

DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("fstype", "source", "digest"),
    [
        ("fuse.ocifs", DIGEST, DIGEST),
        ("erofs", f"ocifs:{DIGEST}", DIGEST),
        ("erofs", "/dev/loop0", None),
        ("erofs", f"/somewhere/ocifs:{DIGEST}", None),
        ("erofs", DIGEST, None),
        ("fuse", f"ocifs:{DIGEST}", None),
        ("fuse.sshfs", DIGEST, None),
        ("ext4", "/dev/vda", None),
        ("tmpfs", "", None),
    ],
)
def test_the_digest_of_what_ocifs_has_mounted(fstype: str, source: str, digest: str | None) -> None:
    assert Mount("/mnt", fstype, source, ("ro",), "0:99").digest == digest


def test_the_table_has_what_is_mounted_here() -> None:
    proc = mount_at("/proc")
    assert proc is not None
    status = os.stat("/proc")
    assert (proc.fstype, proc.device) == ("proc", f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}")
    assert "rw" in proc.options
    assert proc in mount_table()
    assert mount_at("/proc/self") is None


@pytest.mark.parametrize(
    ("path", "directory", "below"),
    [
        ("/a", "/a", True),
        ("/a/b", "/a", True),
        ("/ab", "/a", False),
        ("/a", "/a/b", False),
        ("/a", "/", True),
        ("/", "/", True),
    ],
)
def test_is_below(path: str, directory: str, below: bool) -> None:
    assert is_below(path, directory) is below


def test_the_real_mountpoint_is_without_symlinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real/dir").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real/again").symlink_to("../link/dir")
    monkeypatch.chdir(tmp_path)
    expected = str(tmp_path / "real/dir")
    for name in ("real/dir", "link/dir", "link/again", "./link/dir/", "real/absent/../dir"):
        assert real_mountpoint(name) == expected
    assert real_mountpoint("link/absent") == str(tmp_path / "real/absent")
    with pytest.raises(MountError, match="no name"):
        real_mountpoint("")
