"""Who may own what, on the way to a directory and in it; and that its descriptor is what counts from then on."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ocifs.trusted_directory import TrustedDirectory
from tests.cli.command import Ocifs

OTHER = 4711
"""The uid of another user."""


def owned(path: Path, uid: int, mode: int = 0o755) -> Path:
    path.mkdir(exist_ok=True)
    os.chown(path, uid, -1)
    path.chmod(mode)
    return path


def test_missing_directories_are_made_for_this_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = TrustedDirectory.open(tmp_path / "a/b", make=True)
    finally:
        os.umask(before)
    assert made.path == tmp_path / "a/b"
    assert {(tmp_path / name).stat().st_mode & 0o7777 for name in ("a", "a/b")} == {0o700}
    with pytest.raises(FileNotFoundError):
        TrustedDirectory.open(tmp_path / "c")


@pytest.mark.parametrize(
    ("mode", "own", "above"),
    [
        (0o700, True, True),
        (0o755, True, True),
        (0o770, False, False),
        (0o757, False, False),
        (0o777, False, False),
        (0o1777, False, True),
        (0o1770, False, True),
    ],
)
def test_which_modes_are_trusted(tmp_path: Path, mode: int, own: bool, above: bool) -> None:
    """A directory that others may write to never; one above it if the sticky bit keeps their hands off."""
    parent = tmp_path / "parent"
    (parent / "directory").mkdir(parents=True)
    parent.chmod(mode)
    for path, trusted in ((parent, own), (parent / "directory", above)):
        if trusted:
            assert TrustedDirectory.open(path).path == path
        else:
            with pytest.raises(PermissionError, match=f"{parent} can be written by .*mode {mode:04o}.*chmod g?o?-w"):
                TrustedDirectory.open(path)


def test_a_shared_directory_is_good_for_one_of_one_s_own(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    made = TrustedDirectory.open_shared(shared).temporary("x-")
    assert made.path.parent == shared
    assert made.path.stat().st_mode & 0o7777 == 0o700
    shared.chmod(0o777)
    with pytest.raises(PermissionError, match="can be written by others"):
        TrustedDirectory.open_shared(shared)


@pytest.mark.parametrize(
    "arrange",
    [
        pytest.param(lambda base: owned(base / "a/b", OTHER), id="the directory"),
        pytest.param(lambda base: owned(base / "a", OTHER) / "b", id="its parent"),
        pytest.param(lambda base: owned(base, OTHER, 0o711) / "a/b", id="a directory further up"),
    ],
)
def test_a_directory_of_another_user_on_the_way_is_named(
    tmp_path: Path, arrange: Callable[[Path], Path], root: None
) -> None:
    base = tmp_path / "base"
    (base / "a/b").mkdir(parents=True)
    path = arrange(base)
    with pytest.raises(PermissionError, match=f"{base}.* belongs to uid {OTHER}"):
        TrustedDirectory.open(path)


def test_symlinks_lead_only_through_what_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "real/dir").mkdir(parents=True)
    (tmp_path / "absolute").symlink_to(tmp_path / "real")
    (tmp_path / "relative").symlink_to("real/../absolute")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("absolute", "relative", "relative/../real"):
        assert TrustedDirectory.open(tmp_path / name / "dir").path == tmp_path / "real/dir"
    open_place = tmp_path / "open"
    open_place.mkdir()
    open_place.chmod(0o777)
    (open_place / "link").symlink_to(tmp_path / "real")
    with pytest.raises(PermissionError, match=f"{open_place} can be written"):
        TrustedDirectory.open(open_place / "link/dir")
    with pytest.raises(OSError, match="symbolic links"):
        TrustedDirectory.open(tmp_path / "loop")


def test_a_symlink_of_another_user_is_not_followed(tmp_path: Path, root: None) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to("real")
    os.chown(link, OTHER, -1, follow_symlinks=False)
    with pytest.raises(PermissionError, match=f"{link} is a symlink that belongs to uid {OTHER}"):
        TrustedDirectory.open(link)


def test_a_relative_path_begins_in_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)
    assert TrustedDirectory.open(Path("a")).path == tmp_path / "a"
    monkeypatch.chdir(tmp_path / "a")
    (tmp_path / "a").rmdir()
    assert TrustedDirectory.open(tmp_path).path == tmp_path
    with pytest.raises(FileNotFoundError):
        TrustedDirectory.open(Path("."))


@pytest.mark.parametrize("kind", ["symlink", "hard link", "FIFO", "directory", "writable by others"])
def test_only_own_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    (tmp_path / "d").mkdir()
    directory = TrustedDirectory.open(tmp_path / "d")
    make: dict[str, Callable[[Path], object]] = {
        "symlink": lambda path: path.symlink_to(other),
        "hard link": lambda path: path.hardlink_to(other),
        "FIFO": os.mkfifo,
        "directory": Path.mkdir,
        "writable by others": lambda path: os.close(os.open(path, os.O_CREAT, 0o666)),
    }
    before = os.umask(0)
    make[kind](tmp_path / "d/x")
    os.umask(before)
    for flags in (os.O_RDONLY, os.O_RDWR | os.O_CREAT):
        with pytest.raises(OSError, match=r"."):
            directory.open_file("x", flags)
    with pytest.raises(OSError, match=r"."):
        directory.write_file("x", b"")
    assert list(directory.files()) == []
    assert other.read_bytes() == b"precious"


def test_a_file_of_another_user_is_not_opened(tmp_path: Path, root: None) -> None:
    (tmp_path / "x").touch()
    os.chown(tmp_path / "x", OTHER, -1)
    directory = TrustedDirectory.open(tmp_path)
    with pytest.raises(PermissionError, match=f"{tmp_path}/x belongs to uid {OTHER}"):
        directory.open_file("x", os.O_RDONLY)
    assert list(directory.files()) == []


def test_files_are_written_read_renamed_and_removed(tmp_path: Path) -> None:
    directory = TrustedDirectory.open(tmp_path)
    directory.write_file("a", b"long content")
    directory.write_file("a", b"short")
    assert directory.read_file("a", 3) == b"sho"
    directory.rename("a", "b")
    assert [name for name, _ in directory.files()] == ["b"]
    assert (tmp_path / "b").stat().st_mode & 0o7777 == 0o600
    for _ in range(2):
        directory.unlink("b")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a/b", "../x", "/etc/passwd"])
def test_a_path_is_no_name(tmp_path: Path, name: str) -> None:
    directory = TrustedDirectory.open(tmp_path)
    for use in (directory.unlink, directory.status, directory.directory, lambda name: directory.rename("a", name)):
        with pytest.raises(ValueError, match="not the name of a directory entry"):
            use(name)


def test_exchanging_the_path_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    directory = TrustedDirectory.open(tmp_path / "d")
    (tmp_path / "d").rename(tmp_path / "moved")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/forged").touch()
    directory.write_file("mine", b"")
    assert [name for name, _ in directory.files()] == ["mine"]
    assert os.listdir(tmp_path / "moved") == ["mine"]


def test_it_is_closed_with_its_last_reference(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        TrustedDirectory.open(tmp_path / "a", make=True).directory("b", make=True)
        tmp_path.chmod(0o777)
        with pytest.raises(PermissionError):
            TrustedDirectory.open(tmp_path / "a")
        tmp_path.chmod(0o700)
    assert os.listdir("/proc/self/fd") == before


_UNSERVED = f"""if True:
    import ctypes, os, sys
    from pathlib import Path
    from ocifs.trusted_directory import TrustedDirectory
    device = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(0x20000) == 0  # CLONE_NEWNS
    assert libc.mount(b"none", b"/", None, 0x40000 | 0x4000, None) == 0  # MS_PRIVATE, MS_REC
    options = f"fd={{device}},rootmode=40000,user_id={OTHER},group_id=0,allow_other"
    assert libc.mount(b"x", sys.argv[1].encode(), b"fuse.x", 0, options.encode()) == 0
    try:
        TrustedDirectory.open(Path(sys.argv[1], *sys.argv[2:]))
    except PermissionError as error:
        print(error.strerror)
"""


@pytest.mark.parametrize("below", [[], ["directory"]])
def test_a_fuse_file_system_of_another_user_is_not_even_asked(
    tmp_path: Path, fuse: None, root: None, below: list[str]
) -> None:
    """It could say that all is root's, or never answer."""
    command = [sys.executable, "-c", _UNSERVED, str(tmp_path), *below]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert run.stdout == f"{tmp_path} lies on a FUSE file system of uid {OTHER}\n", run.stderr


def test_in_a_user_namespace_the_host_s_root_is_trusted(user: Ocifs) -> None:
    """There `/` belongs to a user who is not mapped, and shows as nobody."""
    script = "import sys; from pathlib import Path; from ocifs.trusted_directory import *\n"
    script += "assert Path('/').stat().st_uid not in {0, 4711}; print(TrustedDirectory.open(Path(sys.argv[1])).path)"
    command = [*user.become, "unshare", "--user", "--map-user=4711", user.interpreter, "-c", script, str(user.home)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=user.variables())
    if run.stderr.startswith("unshare: "):
        pytest.skip(run.stderr)
    assert run.stdout == f"{user.home}\n", run.stderr
