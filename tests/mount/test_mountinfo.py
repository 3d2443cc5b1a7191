import os
from pathlib import Path

import pytest

from ocifs.errors import MountError
from ocifs.mount.mountinfo import MountEntry, is_below, mount_at, mount_table, real_mountpoint, steps

DIGEST = f"sha256:{'0' * 64}"


ME, OTHER = f"user_id={os.geteuid()}", f"user_id={os.geteuid() + 1}"


@pytest.mark.parametrize(
    ("fstype", "source", "option", "digest"),
    [
        ("fuse.ocifs", DIGEST, ME, DIGEST),
        ("fuse.ocifs", f"sha512:{'0' * 128}", ME, f"sha512:{'0' * 128}"),
        ("fuse.ocifs", DIGEST, OTHER, None),
        ("fuse.ocifs", DIGEST, "rw", None),
        ("fuse.ocifs", f"{DIGEST}\n", ME, None),
        ("fuse.ocifs", f"{DIGEST}0", ME, None),
        ("fuse.ocifs", DIGEST.upper(), ME, None),
        ("fuse.ocifs", f"md5:{'0' * 32}", ME, None),
        ("fuse.ocifs", "sha256:\x1b[31m", ME, None),
        ("fuse.ocifs", "\udcff", ME, None),
        ("fuse.ocifs", "", ME, None),
        ("erofs", "/dev/loop0", "ro", None),
        ("erofs", f"/somewhere/ocifs:{DIGEST}", "ro", None),
        ("erofs", DIGEST, "ro", None),
        ("erofs", "ocifs:\udcff", "ro", None),
        ("fuse", f"ocifs:{DIGEST}", ME, None),
        ("fuse.sshfs", DIGEST, ME, None),
        ("ext4", "/dev/vda", "rw", None),
        ("tmpfs", "", "rw", None),
    ],
)
def test_the_digest_of_what_this_user_has_mounted(fstype: str, source: str, option: str, digest: str | None) -> None:
    assert MountEntry("/mnt", fstype, source, ("ro", option), "0:99").digest == digest


def test_an_erofs_mount_is_root_s() -> None:
    digest = None if os.geteuid() else DIGEST
    assert MountEntry("/mnt", "erofs", f"ocifs:{DIGEST}", ("ro",), "0:99").digest == digest


def test_names_in_the_table_may_hold_any_byte(tmp_path: Path) -> None:
    line = rb"36 35 0:98 / /a\040b%b rw,nosuid shared:1 - fuse.ocifs x\012%b rw,user_id=1000" % (b"\r\xff", b"\r\x0b")
    (tmp_path / "mountinfo").write_bytes(line + b"\n" + line + b"\n")
    first, second = mount_table(tmp_path)
    assert (
        first
        == second
        == MountEntry("/a b\r\udcff", "fuse.ocifs", "x\n\r\x0b", ("rw", "nosuid", "rw", "user_id=1000"), "0:98")
    )


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
    with pytest.raises(MountError, match="is an empty string"):
        real_mountpoint("")


def test_the_steps_to_a_path_come_before_what_is_below_them_is_looked_up(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real/../real")
    root = str(tmp_path)
    walk = steps(f"{root}/link/./missing")
    assert root in walk
    (tmp_path / "link").unlink()  # what comes next is what is there now
    assert [*walk] == [f"{root}/link", f"{root}/link/missing"]


@pytest.mark.parametrize(
    ("path", "real"),
    [("/", "/"), ("/..", "/"), ("//a/../b/.", "/b"), ("/no/../x/", "/x"), (".", None), ("x", None)],
)
def test_paths_are_followed_as_the_kernel_does(
    path: str, real: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert real_mountpoint(path) == (real or os.path.join(tmp_path, path).removesuffix("/."))


def test_symlinks_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert real_mountpoint(f"{tmp_path}/a") in {f"{tmp_path}/a", f"{tmp_path}/b"}


def test_only_a_newline_ends_a_line_of_the_table(tmp_path: Path) -> None:
    line = b"99 1 0:42 / /a\\012\rb\x0b\x85 rw - fuse.x \rsource rw\n"
    (tmp_path / "mountinfo").write_bytes(line * 2)
    (mount, _) = mount_table(tmp_path)
    assert mount.mountpoint == os.fsdecode(b"/a\n\rb\x0b\x85")
    assert mount.source == "\rsource"
