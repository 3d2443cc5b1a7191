"""Whatever would write is refused as on any read-only file system, to root as well."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

Attempt = Callable[[str], object]

_WRITES: dict[str, tuple[str, Attempt]] = {
    "open for writing": ("regular", lambda path: os.open(path, os.O_WRONLY)),
    "open for both": ("regular", lambda path: os.open(path, os.O_RDWR)),
    "open to truncate": ("regular", lambda path: os.open(path, os.O_RDONLY | os.O_TRUNC)),
    "open to append": ("regular", lambda path: os.open(path, os.O_WRONLY | os.O_APPEND)),
    "create": ("new", lambda path: os.open(path, os.O_WRONLY | os.O_CREAT)),
    "create to read": ("new", lambda path: os.open(path, os.O_RDONLY | os.O_CREAT)),
    "create in a directory": ("dir/new", lambda path: os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)),
    "mkdir": ("new", os.mkdir),
    "mkfifo": ("new", os.mkfifo),
    "mknod": ("new", os.mknod),
    "symlink": ("new", lambda path: os.symlink("target", path)),
    "link": ("new", lambda path: os.link(f"{os.path.dirname(path)}/regular", path)),
    "rename": ("regular", lambda path: os.rename(path, f"{path}-new")),
    "rename over": ("regular", lambda path: os.rename(path, f"{os.path.dirname(path)}/empty")),
    "unlink": ("regular", os.unlink),
    "rmdir": ("sticky", os.rmdir),
    "chmod": ("regular", lambda path: os.chmod(path, 0o600)),
    "chown": ("regular", lambda path: os.chown(path, 0, 0)),
    "lchown": ("link", lambda path: os.lchown(path, 0, 0)),
    "truncate": ("regular", lambda path: os.truncate(path, 0)),
    "utimens": ("regular", lambda path: os.utime(path, ns=(0, 0))),
    "touch": ("regular", os.utime),
    "setxattr": ("regular", lambda path: os.setxattr(path, "user.new", b"value")),
    "removexattr": ("attributed", lambda path: os.removexattr(path, "user.note")),
    "temporary file": ("", lambda path: os.open(path, os.O_TMPFILE | os.O_RDWR)),
}


@pytest.mark.parametrize("what", _WRITES)
def test_is_read_only(posix: bytes, root: None, what: str) -> None:
    name, attempt = _WRITES[what]
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        attempt(os.path.join(os.fsdecode(posix), name))


@pytest.mark.parametrize(
    ("name", "mode", "allowed"),
    [
        ("regular", os.R_OK, True),
        ("regular", os.W_OK, False),
        ("regular", os.X_OK, False),
        ("script", os.X_OK, True),
        ("dir", os.R_OK | os.X_OK, True),
        ("dir", os.W_OK, False),
        ("setuid", os.X_OK, True),
    ],
)
def test_access_for_root(posix: bytes, root: None, name: str, mode: int, allowed: bool) -> None:
    assert os.access(Path(os.fsdecode(posix), name), mode) is allowed
