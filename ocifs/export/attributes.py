"""Apply the attributes of a file to its exported copy, as far as this process may.

Whatever the system refuses is recorded as a loss. A file whose owner could not be set gets neither setuid nor setgid:
they would lend the rights of the exporting user. The module knows files by open descriptor, and not their content.
"""

import errno
import os
import stat
from collections.abc import Callable, Mapping, Set

from ocifs.erofs.reader import Inode
from ocifs.erofs.xattr import ACL_NAMES
from ocifs.export.losses import Loss, Losses

_REFUSED = {errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP}
"""Errors for operations that are not permitted or not supported by the file system."""
_REFUSED_XATTR = _REFUSED | {errno.ENOSPC, errno.E2BIG, errno.ERANGE}
"""The same for extended attributes; ext4 reports ENOSPC if they exceed its space in one file."""

_SET_ID = stat.S_ISUID | stat.S_ISGID
_KEEP = 0xFFFFFFFF
Path = Callable[[], bytes]
"""Returns a path; only messages need it."""
ROOTLESS = b"user.rootlesscontainers"


def rootless_owner(uid: int, gid: int) -> bytes:
    """Return the value of `user.rootlesscontainers` for an owner, as umoci writes it; empty for root.

    It is the protobuf message Resource of rootlesscontaine.rs: uid is field 1, gid field 2, and 2³² - 1 stands for 0.
    """
    if uid == gid == 0:
        return b""
    return b"\x08" + _varint(uid or _KEEP) + b"\x10" + _varint(gid or _KEEP)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


class PlainModes:
    """Sets only permissions, reduced by the umask, as programs do for the files they create."""

    def __init__(self) -> None:
        self._left = 0o777 & ~_umask()

    def give(self, file: int | str, inode: Inode, xattrs: Mapping[bytes, bytes], path: Path) -> None:
        """Set the permissions of a complete file; `file` is a descriptor, or a name in /proc/self/fd."""
        if not stat.S_ISLNK(inode.mode):
            os.chmod(file, inode.mode & self._left)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


class Attributes:
    """Sets owner, extended attributes, mode and time of files."""

    def __init__(self, owner: tuple[int, int], losses: Losses, *, rootless: bool) -> None:
        """`owner` is the uid and gid of newly created files; `rootless` records owners instead of setting them."""
        self._owner = owner
        self._losses = losses
        self._rootless = rootless

    def give(self, file: int | str, inode: Inode, xattrs: Mapping[bytes, bytes], path: Path) -> None:
        """Set all attributes of a complete file; `file` is a descriptor, or a name in /proc/self/fd.

        The order matters: chown(2) clears setuid and capabilities, a read-only file accepts no `user.*`, chmod(2)
        changes an ACL, and each of them changes the times.
        """
        if self._rootless:
            owned = self._record_owner(file, inode, path)
            xattrs = {name: value for name, value in xattrs.items() if name != ROOTLESS}
        else:
            owned = self._give_owner(file, inode, path)
        for name in xattrs.keys() - ACL_NAMES:
            self._give_xattr(file, name, xattrs[name], path)
        if not stat.S_ISLNK(inode.mode):
            self._give_mode(file, inode, owned, path)
        for name in xattrs.keys() & ACL_NAMES:
            self._give_xattr(file, name, xattrs[name], path)
        os.utime(file, ns=(inode.mtime_ns, inode.mtime_ns))

    def _give_owner(self, file: int | str, inode: Inode, path: Path) -> bool:
        owner = inode.uid, inode.gid
        return owner == self._owner or self._try(Loss.OWNER, path, _REFUSED, lambda: os.chown(file, *owner))

    def _record_owner(self, file: int | str, inode: Inode, path: Path) -> bool:
        value = rootless_owner(inode.uid, inode.gid)
        if value:
            self._try(Loss.RECORD, path, _REFUSED_XATTR, lambda: os.setxattr(file, ROOTLESS, value))
        return not value

    def _give_xattr(self, file: int | str, name: bytes, value: bytes, path: Path) -> None:
        self._try(Loss.XATTR, path, _REFUSED_XATTR, lambda: os.setxattr(file, name, value))

    def _give_mode(self, file: int | str, inode: Inode, owned: bool, path: Path) -> None:
        mode = stat.S_IMODE(inode.mode)
        if mode & _SET_ID and not owned:
            self._losses.add(Loss.SET_ID, path())
            mode &= ~_SET_ID
        self._try(Loss.MODE, path, _REFUSED, lambda: os.chmod(file, mode))

    def _try(self, loss: Loss, path: Path, refusals: Set[int], call: Callable[[], None]) -> bool:
        """Return whether the call was allowed; record the loss if it was refused."""
        try:
            call()
        except OSError as error:
            if error.errno not in refusals:
                raise
            self._losses.add(loss, path())
            return False
        return True
