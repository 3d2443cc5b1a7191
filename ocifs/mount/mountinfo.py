"""Read the kernel's mount table (proc(5), `/proc/self/mountinfo`), and unmount."""

import errno
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from ocifs.errors import MountError, printable_path
from ocifs.mount import syscalls

FSTYPE = "fuse.ocifs"
"""Type of a mount by the fuse engine; its source is the image's digest."""

EROFS_SOURCE = "ocifs:"
"""Prefix of the source of a mount by the erofs engine; the image's digest follows."""

_SYMLINKS = 40
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}")
_ROOT = 0
_PAUSE = 0.05
_ESCAPE = re.compile(rb"\\([0-7]{3})")


class MountEntry(NamedTuple):
    """A line of the mount table."""

    mountpoint: str
    fstype: str
    source: str
    options: tuple[str, ...]
    device: str
    """major:minor, unique among mounted file systems."""

    @property
    def digest(self) -> str | None:
        """The digest of the mounted image, if this user mounted it with ocifs; else None.

        Any user can give a FUSE mount the type and source of ours; only its owner, user_id, comes from the kernel.
        """
        if self._owner != os.geteuid():
            return None
        source = self.source if self.fstype == FSTYPE else self.source.removeprefix(EROFS_SOURCE)
        return source if _DIGEST.fullmatch(source) else None

    @property
    def is_automount(self) -> bool:
        """Whether it only waits for a first access, upon which automount(8) or systemd mounts on top of it."""
        return self.fstype == "autofs"

    @property
    def _owner(self) -> int | None:
        """The uid that mounted it, if it has the type and source of a mount by ocifs."""
        if self.fstype == FSTYPE:
            owners = [option for option in self.options if option.startswith("user_id=")]
            return int(owners[-1].removeprefix("user_id=")) if owners else None
        return _ROOT if self.fstype == "erofs" and self.source.startswith(EROFS_SOURCE) else None


def mount_table(process: Path = Path("/proc/self")) -> list[MountEntry]:
    """Return the mounts in a process's mount namespace, by default this one's, in mount order."""
    mounts = []
    # Only a newline ends a line: the kernel escapes no other control character in a name.
    for line in (process / "mountinfo").read_bytes().split(b"\n")[:-1]:
        before, _, after = line.partition(b" - ")
        fields = before.split(b" ")
        fstype, source, superblock_options = [*after.split(b" ", 2), b"", b""][:3]
        options = os.fsdecode(fields[5]).split(",") + os.fsdecode(superblock_options).split(",")
        mounts.append(
            MountEntry(
                _unescape(fields[4]), _unescape(fstype), _unescape(source), tuple(options), os.fsdecode(fields[2])
            )
        )
    return mounts


def mount_at(path: str) -> MountEntry | None:
    """Return the topmost mount on `path`."""
    return next((mount for mount in reversed(mount_table()) if mount.mountpoint == path), None)


def real_mountpoint(path: str) -> str:
    """Return `path` as in the mount table, without accessing the directory itself, whose mount may hang or be dead.

    Raises:
        MountError: `path` is empty, which would otherwise mean the current directory.
    """
    if not path:
        raise MountError("the mountpoint is an empty string: name a directory")
    return [*steps(path)][-1]


def steps(path: str) -> Iterator[str]:
    """Yield the real paths along `path`, from the root on; the last one is that of `path` itself.

    A step is yielded before anything below it is looked up. No file is opened and no attribute is read: readlink(2) of
    a directory fails in the kernel, without a request to a file system.
    """
    names = [*reversed(path.split("/"))]
    real = "/" if path.startswith("/") else os.getcwd()
    links = 0
    yield real
    while names:
        name = names.pop()
        if name in {"", "."}:
            continue
        if name == "..":
            real = os.path.dirname(real)
        else:
            try:
                target = os.readlink(os.path.join(real, name)) if links < _SYMLINKS else ""
            except OSError:
                target = ""
            if target:
                links += 1
                names += reversed(target.split("/"))
                real = "/" if target.startswith("/") else real
            else:
                real = os.path.join(real, name)
        yield real


def unmount(path: str, *, lazy: bool, patience: float = 0.0) -> None:
    """Unmount `path`. With `lazy`, detach it now, and let the kernel finish when the last user is done.

    If it is busy, retry for `patience` seconds.

    Raises:
        MountError: It is busy (the message names its users), or not this user's.
    """
    deadline = time.monotonic() + patience
    while _is_busy(path, lazy=lazy):
        if time.monotonic() >= deadline:
            raise MountError(_busy(path))
        time.sleep(_PAUSE)


def detach(path: str) -> None:
    """Detach the topmost mount on `path`, even if it is in use: it then continues for its users. Raises MountError."""
    unmount(path, lazy=True)


def _is_busy(path: str, *, lazy: bool) -> bool:
    """Unmount `path`; return True if it is busy and thus still mounted. Raises MountError."""
    try:
        syscalls.umount(path, lazy=lazy)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        if error.errno != errno.EPERM:
            raise MountError(f"cannot unmount {printable_path(path)}: {error.strerror}") from None
    else:
        return False
    if (fusermount := shutil.which("fusermount3")) is None:
        raise MountError(f"cannot unmount {printable_path(path)}: fusermount3 is missing (Debian package fuse3)")
    run = subprocess.run(
        [fusermount, "-u", *(["-z"] if lazy else []), "--", path], capture_output=True, text=True, check=False
    )
    message = run.stderr.strip().rpartition("\n")[2]
    if run.returncode and "busy" not in message:
        raise MountError(f"cannot unmount {printable_path(path)}: {message}")
    return run.returncode != 0


def users_of(path: str, but: Collection[int] = ()) -> list[tuple[int, str]]:
    """Return (pid, command) of the visible processes, `but` some, that use or have open anything below `path`."""
    users = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) in but:
            continue
        if any(is_below(target, path) for target in _links(process)):
            try:
                command = (process / "comm").read_text(errors="replace").strip()
            except OSError:
                continue
            users.append((int(process.name), printable_path(command)))
    return users


def users_elsewhere(is_it: Callable[[MountEntry], bool]) -> list[tuple[int, str]]:
    """Return (pid, command) of one visible process in each other mount namespace that has a matching mount."""
    seen = {_namespace(Path("/proc/self"))}
    users = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or (namespace := _namespace(process)) in seen:
            continue
        seen.add(namespace)
        try:
            if any(map(is_it, mount_table(process))):
                users.append(
                    (int(process.name), printable_path((process / "comm").read_text(errors="replace").strip()))
                )
        except OSError:
            continue
    return users


def _namespace(process: Path) -> str | None:
    try:
        return os.readlink(process / "ns/mnt")
    except OSError:
        return None


def _busy(path: str) -> str:
    """Return why `path` is busy. This process does not count: it ends, and its directory is that of the shell."""
    shown = printable_path(path)
    inside = is_below(_own_directory(), path)
    own = {os.getpid(), os.getppid()} if inside else {os.getpid()}
    users = ", ".join(f"{command} ({pid})" for pid, command in users_of(path, own)[:5])
    if inside:
        also = f", and end {users}" if users else ""
        return (
            f"{shown} is in use: the current directory is in it: "
            f"leave the directory (cd {printable_path(os.path.dirname(path))}){also}, or detach it now with --lazy"
        )
    return f"{shown} is in use{' by ' + users if users else ''}: end that and try again, or detach it now with --lazy"


def _own_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # removed, or detached
        return ""


def _links(process: Path) -> list[str]:
    links = []
    try:
        candidates = [process / "cwd", process / "root", process / "exe", *(process / "fd").iterdir()]
    except OSError:
        return []
    for link in candidates:
        try:
            links.append(os.readlink(link))
        except OSError:
            continue
    return links


def is_below(path: str, directory: str) -> bool:
    """Whether an absolute path equals `directory` or lies below it, by name only."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _unescape(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))
