"""A mount refuses, and finds missing, what any read-only file system does: the same calls on a tmpfs, mounted
read-only, with the same names. The calls are those of pjdfstest's EROFS, ENOENT, ENOTDIR, EISDIR, ELOOP and
ENAMETOOLONG cases.
"""

import ctypes
import errno
import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, hardlink, header, symlink, tar

_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100

Call = Callable[[str, str], object]


def _checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def _opened(path: str, flags: int) -> None:
    os.close(os.open(path, flags, 0o644))


def _fallocate(path: str, mode: int) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        _checked(_libc.fallocate(fd, mode, ctypes.c_int64(0), ctypes.c_int64(4096)))
    finally:
        os.close(fd)


def _by_fd(path: str, call: Callable[[int], object]) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        call(fd)
    finally:
        os.close(fd)


def _rename2(source: str, target: str, flags: int) -> None:
    _checked(_libc.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags))


_CALLS: dict[str, Call] = {
    "open to read": lambda a, b: _opened(a, os.O_RDONLY),
    "open to write": lambda a, b: _opened(a, os.O_WRONLY),
    "open for both": lambda a, b: _opened(a, os.O_RDWR),
    "open to append": lambda a, b: _opened(a, os.O_WRONLY | os.O_APPEND),
    "open to truncate": lambda a, b: _opened(a, os.O_RDONLY | os.O_TRUNC),
    "create to read": lambda a, b: _opened(a, os.O_RDONLY | os.O_CREAT),
    "create to write": lambda a, b: _opened(a, os.O_WRONLY | os.O_CREAT),
    "create anew": lambda a, b: _opened(a, os.O_WRONLY | os.O_CREAT | os.O_EXCL),
    "open a directory": lambda a, b: _opened(a, os.O_RDONLY | os.O_DIRECTORY),
    "open no symlink": lambda a, b: _opened(a, os.O_RDONLY | os.O_NOFOLLOW),
    "open a path": lambda a, b: _opened(a, os.O_PATH),
    "temporary file": lambda a, b: _opened(a, os.O_TMPFILE | os.O_RDWR),
    "stat": lambda a, b: os.stat(a) and None,
    "lstat": lambda a, b: os.lstat(a) and None,
    "readlink": lambda a, b: os.readlink(a) and None,
    "list": lambda a, b: os.listdir(a) and None,
    "mkdir": lambda a, b: os.mkdir(a),
    "mkfifo": lambda a, b: os.mkfifo(a),
    "mknod": lambda a, b: os.mknod(a, 0o20600, os.makedev(1, 3)),
    "symlink": lambda a, b: os.symlink("target", a),
    "link": os.link,
    "rename": os.rename,
    "rename in exchange": lambda a, b: _rename2(a, b, 2),
    "rename to nothing": lambda a, b: _rename2(a, b, 1),
    "unlink": lambda a, b: os.unlink(a),
    "rmdir": lambda a, b: os.rmdir(a),
    "chmod": lambda a, b: os.chmod(a, 0o600),
    "fchmod": lambda a, b: _by_fd(a, lambda fd: os.fchmod(fd, 0o600)),
    "chown": lambda a, b: os.chown(a, os.geteuid(), os.getegid()),
    "lchown": lambda a, b: os.lchown(a, os.geteuid(), os.getegid()),
    "fchown": lambda a, b: _by_fd(a, lambda fd: os.fchown(fd, os.geteuid(), os.getegid())),
    "truncate": lambda a, b: os.truncate(a, 10),
    "ftruncate": lambda a, b: _by_fd(a, lambda fd: os.ftruncate(fd, 10)),
    "write": lambda a, b: _by_fd(a, lambda fd: os.write(fd, b"x")),
    "fallocate": lambda a, b: _fallocate(a, 0),
    "punch a hole": lambda a, b: _fallocate(a, 3),
    "utimens": lambda a, b: os.utime(a, ns=(0, 0)),
    "utimens of a link": lambda a, b: os.utime(a, ns=(0, 0), follow_symlinks=False),
    "touch": lambda a, b: os.utime(a),
    "futimens": lambda a, b: _by_fd(a, lambda fd: os.utime(fd, ns=(0, 0))),
    "setxattr": lambda a, b: os.setxattr(a, "trusted.new", b"value"),
    "removexattr": lambda a, b: os.removexattr(a, "trusted.old"),
    "statvfs": lambda a, b: os.statvfs(a) and None,
    "chdir": lambda a, b: _by_fd(a, os.fchdir),
    "execute": lambda a, b: _by_fd(a, lambda fd: None) if os.access(a, os.X_OK) else os.stat(a) and None,
    "readable": lambda a, b: _checked(_libc.access(os.fsencode(a), os.R_OK)) and None,
    "writable": lambda a, b: _checked(_libc.access(os.fsencode(a), os.W_OK)) and None,
    "executable": lambda a, b: _checked(_libc.access(os.fsencode(a), os.X_OK)) and None,
    "sync": lambda a, b: _by_fd(a, os.fsync),
    "read at a place": lambda a, b: _by_fd(a, lambda fd: os.pread(fd, 10, 0) and None),
    "lock": lambda a, b: _by_fd(a, lambda fd: fcntl.flock(fd, fcntl.LOCK_EX)),
}

_PLACES = [
    "file",
    "directory",
    "directory/inside",
    "empty-directory",
    "link",
    "dangling",
    "loop",
    "loop/x",
    "fifo",
    "absent",
    "absent/absent",
    "file/absent",
    "file/",
    "directory/",
    "link-to-directory",
    "link-to-directory/",
    "link-to-directory/inside",
    "absent/",
    ".",
    "..",
    "directory/..",
    "n" * 255,
    "n" * 256,
    "directory/" + "n" * 256,
    "/".join(["directory", "."] * 2100),
    "",
]
_TARGETS = ["absent", "file", "directory", "hard", "n" * 256]

_TWO = {"link", "rename", "rename in exchange", "rename to nothing"}
_NOT_OPENING = {"stat", "lstat", "mkdir", "mkfifo", "symlink", "link", "rename", "unlink", "chmod", "chown", "truncate"}


@pytest.fixture(scope="module")
def places(
    session_ocifs: Ocifs, engine: str, tmp_path_factory: pytest.TempPathFactory, root: None
) -> Iterator[tuple[Path, Path]]:
    """The mount, and a tmpfs that has the same names."""
    made = tmp_path_factory.mktemp("alike")
    members = [
        directory(b"./", mode=0o755),
        file(b"file", b"content", mode=0o644),
        hardlink(b"hard", b"file"),
        directory(b"directory/", mode=0o755),
        file(b"directory/inside", b"inside", mode=0o600),
        directory(b"empty-directory/", mode=0o700),
        symlink(b"link", b"file"),
        symlink(b"dangling", b"absent"),
        symlink(b"loop", b"loop"),
        symlink(b"link-to-directory", b"directory"),
        header(b"fifo", flag=b"6", mode=0o644),
    ]
    archive = made / "tar"
    archive.write_bytes(tar(members))
    other = made / "other"
    other.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", other], check=True)
    try:
        subprocess.run(["tar", "xpf", archive, "-C", other], check=True)
        subprocess.run(["mount", "-o", "remount,ro,nosuid,nodev", other], check=True)
        image = write_layout(made / "image", Image(layers=(Layer(tar(members)),)))
        with session_ocifs.mounted(image, "--engine", engine) as mountpoint:
            yield mountpoint, other
    finally:
        subprocess.run(["umount", other], check=True)


def outcome(call: Call, *paths: str) -> str:
    try:
        found = call(*paths)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done" if found is None or isinstance(found, int) else repr(found)


def outcomes(what: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], str]:
    """Return how a call ends on each kind of place."""
    monkeypatch.chdir(place)
    found = {}
    for name in _PLACES:
        for target in _TARGETS if what in _TWO else [""]:
            if name != "fifo" or what in _NOT_OPENING:
                found[name[:40], target[:40]] = outcome(_CALLS[what], name, target)
    monkeypatch.chdir("/")
    return found


@pytest.mark.parametrize("what", sorted(_CALLS))
def test_each_call_on_each_kind_of_place_ends_as_on_any_file_system(
    places: tuple[Path, Path], engine: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, others = (outcomes(what, place, monkeypatch) for place in places)
    if what == "sync" and engine == "erofs":  # the kernel's EROFS has no fsync(2)
        ours = {where: "done" if end == "EINVAL" else end for where, end in ours.items()}
    assert ours == others


@contextmanager
def overlay(lower: Path, place: Path) -> Iterator[Path]:
    for name in ("upper", "work", "merged"):
        (place / name).mkdir(parents=True)
    options = f"lowerdir={lower},upperdir={place}/upper,workdir={place}/work,redirect_dir=on,index=off,metacopy=off"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", place / "merged"], check=True)
    try:
        yield place / "merged"
    finally:
        subprocess.run(["umount", place / "merged"], check=True)


def snapshot(top: Path) -> dict[str, tuple[object, ...]]:
    """Return mode, owner, size, links and content of everything below."""
    seen: dict[str, tuple[object, ...]] = {}
    for parent, directories, names in os.walk(top):
        for name in (*directories, *names):
            path = Path(parent, name)
            status = path.lstat()
            kind = stat.S_IFMT(status.st_mode)
            content = path.read_bytes() if kind == stat.S_IFREG else os.readlink(path) if kind == stat.S_IFLNK else None
            size = status.st_size if kind != stat.S_IFDIR else 0
            links = status.st_nlink if kind != stat.S_IFDIR else 0
            seen[str(path.relative_to(top))] = (
                oct(status.st_mode), status.st_uid, status.st_gid, size, links, status.st_rdev, content,
            )  # fmt: skip
    return seen


def test_an_overlay_on_it_is_written_as_one_on_any_file_system(
    places: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call on each kind of place, one after the other, and then the trees."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True)
    try:
        found = []
        for number, lower in enumerate(places):
            with overlay(lower, tmp_path / str(number)) as merged:
                ends = {what: outcomes(what, merged, monkeypatch) for what in _CALLS}
                found.append((ends, snapshot(merged)))
        assert found[0][0] == found[1][0]
        assert found[0][1] == found[1][1]
        done = sum(end == "done" for ends in found[0][0].values() for end in ends.values())
        assert done > 150
        assert set(snapshot(places[0])) == set(snapshot(places[1]))
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


_AS_ANOTHER_USER = """
import os, sys
os.setgroups([7]); os.setgid(6); os.setuid(5)
for name in sorted(os.listdir(sys.argv[1])):
    path = os.path.join(sys.argv[1], name)
    allowed = [mode for mode in (os.R_OK, os.W_OK, os.X_OK) if os.access(path, mode)]
    try:
        os.close(os.open(path, os.O_RDONLY))
        opened = True
    except PermissionError:
        opened = False
    print(name, allowed, opened)
"""


def test_who_may_what_goes_by_owner_group_and_further_groups(
    ocifs: Ocifs, engine: str, tmp_path: Path, root: None
) -> None:
    """For each mode of nine bits that has a say, and each owner: the same as on a tmpfs."""
    members = [directory(b"./", mode=0o755)]
    for mode in (0o400, 0o040, 0o004, 0o100, 0o010, 0o001, 0o755, 0o750, 0o705, 0o077, 0o000, 0o4755, 0o2755):
        for uid, gid in ((0, 0), (5, 0), (0, 6), (0, 7), (5, 6)):
            members.append(file(b"%04o-%d-%d" % (mode, uid, gid), b"x", mode=mode, uid=uid, gid=gid))
    (tmp_path / "tar").write_bytes(tar(members))
    other = tmp_path / "other"
    other.mkdir()
    for parent in (tmp_path, *tmp_path.parents[:3], ocifs.home):
        parent.chmod(0o755)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", other], check=True)
    try:
        subprocess.run(["tar", "xpf", tmp_path / "tar", "-C", other], check=True)
        subprocess.run(["mount", "-o", "remount,ro,nosuid,nodev", other], check=True)
        image = write_layout(tmp_path / "image", Image(layers=(Layer(tar(members)),)))
        with ocifs.mounted(image, "--allow-other") as mountpoint:
            seen = [
                subprocess.run(
                    [sys.executable, "-c", _AS_ANOTHER_USER, place], capture_output=True, text=True, check=True
                ).stdout
                for place in (mountpoint, other)
            ]
    finally:
        subprocess.run(["umount", other], check=True)
    assert seen[0] == seen[1]
    assert seen[0].count("\n") == 65
