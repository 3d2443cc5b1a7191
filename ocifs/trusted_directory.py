"""An open directory that no other user can write to or replace, and the files in it.

The path is opened one component at a time from `/`, and every directory on the way is checked as sshd(8) does with
StrictModes: root or this user owns it, and no other user may write to it, unless the sticky bit protects the entries. A
symlink is followed if root or this user owns it; the directories it leads through are checked as well. A FUSE file
system that another user serves is refused, since it may report any owner. Later operations use the descriptor of the
directory, so renaming an ancestor has no effect.
"""

import errno
import os
import stat
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from ocifs.errors import printable_path

_PASS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SYMLINKS = 40
"""The number that Linux follows in one path (path_resolution(7))."""
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_ROOT = 0


class ForeignOwnerError(PermissionError):
    """Another user owns or serves an ancestor, the directory, or a file in it."""


class TrustedDirectory:
    """An open directory, closed with its last reference. Names are of its entries, never paths.

    Every method raises OSError. A PermissionError for an untrusted directory or file has a `strerror` that names it and
    says what to do.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        """Without symlinks."""
        self.fd = fd
        weakref.finalize(self, os.close, fd)

    @classmethod
    def open(cls, path: Path, *, make: bool = False) -> Self:
        """Open a directory that this user owns. With `make`, create it and its missing ancestors with mode 0700."""
        real, fd = _walk(path, make=make)
        try:
            return cls._listed(real, fd, ".")
        finally:
            os.close(fd)

    @classmethod
    def open_shared(cls, path: Path) -> Self:
        """Open a directory in which this user can safely create another, such as `/var/tmp`."""
        real, fd = _walk(path, make=False)
        directory = cls(real, fd)
        _check_ancestor(fd, str(real))
        return directory

    def directory(self, name: str, *, make: bool = False) -> Self:
        """Open a subdirectory that this user owns. With `make`, create it with mode 0700 if it is missing."""
        if make:
            _make(self.fd, _single(name))
        return self._listed(self.path / name, self.fd, _single(name))

    def temporary(self, prefix: str) -> Self:
        """Create a directory with a random name and mode 0700."""
        while True:
            name = prefix + os.urandom(4).hex()
            try:
                os.mkdir(name, 0o700, dir_fd=self.fd)
            except FileExistsError:
                continue
            return self.directory(name)

    def open_file(self, name: str, flags: int) -> int:
        """Open a regular file that this user owns and that has no other hard link. O_CREAT creates it with mode 0600.

        `flags` must not contain O_TRUNC, which would take effect before the file is checked.
        """
        # O_NONBLOCK: opening a FIFO must not block.
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(_single(name), flags, 0o600, dir_fd=self.fd)
        status = os.fstat(fd)
        if not is_own_file(status):
            os.close(fd)
            path = self.path / name
            _check_own(status, str(path))
            raise PermissionError(errno.EPERM, f"{printable_path(str(path))} is a link or a special file: remove it")
        return fd

    def read_file(self, name: str, limit: int) -> bytes:
        """Return the first `limit` bytes of a file."""
        with open(self.open_file(name, os.O_RDONLY), "rb") as file:
            return file.read(limit)

    def write_file(self, name: str, data: bytes) -> None:
        """Write and sync a file, replacing what it held."""
        with open(self.open_file(name, os.O_WRONLY | os.O_CREAT), "wb") as file:
            file.truncate()
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def files(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield (name, status) of the files that `open_file` opens, in no order."""
        for name in os.listdir(self.fd):
            try:
                status = self.status(name)
            except FileNotFoundError:
                continue
            if is_own_file(status):
                yield name, status

    def status(self, name: str) -> os.stat_result:
        """Return the status of an entry; of a symlink, its own."""
        return os.stat(_single(name), dir_fd=self.fd, follow_symlinks=False)

    def rename(self, name: str, new: str) -> None:
        """Rename an entry, replacing a file or an empty directory that has the new name."""
        os.rename(_single(name), _single(new), src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def unlink(self, name: str) -> None:
        """Remove a file, if it is still there."""
        try:
            os.unlink(_single(name), dir_fd=self.fd)
        except FileNotFoundError:
            return

    def sync(self) -> None:
        """Make the names of the entries durable."""
        os.fsync(self.fd)

    @classmethod
    def _listed(cls, path: Path, parent: int, name: str) -> Self:
        directory = cls(path, os.open(name, _LIST, dir_fd=parent))
        _check_own(os.fstat(directory.fd), str(path))
        return directory


def is_own_file(status: os.stat_result) -> bool:
    """Whether an entry is a regular file with one hard link that only this user can have written."""
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_uid == os.geteuid()
        and status.st_nlink <= 1
        and not status.st_mode & _OTHERS_WRITE
    )


def _walk(path: Path, *, make: bool) -> tuple[Path, int]:
    """Return the real path of a directory and an O_PATH descriptor of it, after checking its ancestors."""
    names = _names(str(path) if path.is_absolute() else os.path.join(os.getcwd(), path))
    real, fd, links = "/", os.open("/", _PASS), _SYMLINKS
    mount = _mount_id(fd)
    try:
        while names:
            name = names.pop()
            _check_ancestor(fd, real)
            try:
                below = _open_directory(fd, name, make=make)
            except NotADirectoryError:
                target = _link(fd, name, real, links)
                links -= 1
                names += _names(target)
                below = os.open("/" if target.startswith("/") else ".", _PASS, dir_fd=fd)
                name = "/" if target.startswith("/") else "."
            os.close(fd)
            fd = below
            real = os.path.normpath(os.path.join(real, name))
            if mount != (mount := _mount_id(fd)):
                _check_server(mount, real)
    except BaseException:
        os.close(fd)
        raise
    return Path(real), fd


def _open_directory(fd: int, name: str, *, make: bool) -> int:
    """Open a directory entry, without a request to a file system that is mounted there."""
    try:
        return os.open(name, _PASS, dir_fd=fd)
    except FileNotFoundError:
        if not make:
            raise
    _make(fd, name)
    return os.open(name, _PASS, dir_fd=fd)


def _names(path: str) -> list[str]:
    """Return the components of a path, the last one first."""
    return [name for name in reversed(path.split("/")) if name not in {"", "."}]


def _link(fd: int, name: str, real: str, links: int) -> str:
    """Return the target of a symlink; `links` is how many more may be followed."""
    try:
        target = os.readlink(name, dir_fd=fd)
    except OSError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
    if not _is_trusted(status.st_uid):
        shown = printable_path(os.path.join(real, name))
        raise ForeignOwnerError(errno.EPERM, f"{shown} is a symlink that belongs to uid {status.st_uid}")
    if not links:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return target


def _make(fd: int, name: str) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=fd)
    except FileExistsError:
        return


def _single(name: str) -> str:
    if "/" in name or name in {"", ".", ".."}:
        raise ValueError(f"{name!r} is not the name of a directory entry")
    return name


def _check_own(status: os.stat_result, path: str) -> None:
    """Raise PermissionError unless this user alone can write to a file or directory."""
    if status.st_uid != os.geteuid():
        raise ForeignOwnerError(errno.EPERM, f"{printable_path(path)} belongs to uid {status.st_uid}")
    if status.st_mode & _OTHERS_WRITE:
        raise _writable(status, path)


def _check_ancestor(fd: int, path: str) -> None:
    """Raise PermissionError if another user could replace an entry that root or this user owns in a directory."""
    status = os.fstat(fd)
    if not _is_trusted(status.st_uid):
        raise ForeignOwnerError(errno.EPERM, f"{printable_path(path)} belongs to uid {status.st_uid}")
    if status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX:
        raise _writable(status, path)


def _writable(status: os.stat_result, path: str) -> PermissionError:
    group, right = ("others", "o-w") if status.st_mode & stat.S_IWOTH else ("its group", "g-w")
    mode, shown = stat.S_IMODE(status.st_mode), printable_path(path)
    right = "go-w" if mode & _OTHERS_WRITE == _OTHERS_WRITE else right
    return PermissionError(errno.EPERM, f"{shown} can be written by {group} (mode {mode:04o}): `chmod {right} {shown}`")


def _is_trusted(uid: int) -> bool:
    return uid in {_ROOT, os.geteuid()} or (uid == _overflow_uid() and not _sees_every_user())


def _overflow_uid() -> int:
    """Return the uid that stands for users outside this user namespace (user_namespaces(7))."""
    return int(Path("/proc/sys/kernel/overflowuid").read_bytes())


def _sees_every_user() -> bool:
    """Whether this user namespace maps all users. If not, the host's root, which owns `/`, has the overflow uid."""
    return Path("/proc/self/uid_map").read_bytes().split() == [b"0", b"0", b"4294967295"]


def _mount_id(fd: int) -> bytes:
    """Return the ID of the mount that holds an open directory, without a request to its file system (proc(5))."""
    fields = Path(f"/proc/self/fdinfo/{fd}").read_bytes().split()
    return fields[fields.index(b"mnt_id:") + 1]


def _check_server(mount: bytes, path: str) -> None:
    """Raise ForeignOwnerError for a FUSE file system that an untrusted user serves: it may never answer."""
    for line in Path("/proc/self/mountinfo").read_bytes().split(b"\n"):
        fields, _, filesystem = line.partition(b" - ")
        if fields.split(b" ")[0] != mount or not filesystem.startswith(b"fuse"):
            continue
        owner = next((o for o in filesystem.split(b" ")[-1].split(b",") if o.startswith(b"user_id=")), b"user_id=0")
        uid = int(owner.removeprefix(b"user_id="))
        if not _is_trusted(uid):
            raise ForeignOwnerError(errno.EPERM, f"{printable_path(path)} lies on a FUSE file system of uid {uid}")
