"""The attributes of a file put on the file made for it, as far as this process may.

What the system refuses is noted, never passed over. Setuid and setgid are not given to a file whose owner could not
be: they would lend the rights of whoever exports. It knows files by open descriptor, and not their content.
"""

import errno
import os
import stat
from collections.abc import Callable, Mapping, Set

from ocifs.erofs.reader import Inode
from ocifs.erofs.xattr import ACL_NAMES
from ocifs.export.losses import Loss, Losses

_REFUSED = {errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP}
"""Not permitted, or not known to the file system."""
_REFUSED_XATTR = _REFUSED | {errno.ENOSPC, errno.E2BIG, errno.ERANGE}
"""Or larger than the file system has room for in one file: ext4 says ENOSPC."""

_SET_ID = stat.S_ISUID | stat.S_ISGID
_KEEP = 0xFFFFFFFF
Path = Callable[[], bytes]
"""Gives a path, which only a message needs."""
ROOTLESS = b"user.rootlesscontainers"


def rootless_owner(uid: int, gid: int) -> bytes:
    """Return the value of `user.rootlesscontainers` for an owner, as umoci writes it; empty for root.

    It is the protobuf message Resource of rootlesscontaine.rs: uid is field 1, gid field 2, and 2³² - 1 in place of 0.
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
    """Gives files what programs give to those they make: the permissions that the umask leaves, and nothing else."""

    def __init__(self) -> None:
        self._left = 0o777 & ~_umask()

    def give(self, file: int | str, inode: Inode, xattrs: Mapping[bytes, bytes], path: Path) -> None:
        """Give permissions to a file that has its content; `file` is a descriptor, or a name in /proc/self/fd."""
        if not stat.S_ISLNK(inode.mode):
            os.chmod(file, inode.mode & self._left)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


class Attributes:
    """Gives files their owner, extended attributes, mode and time."""

    def __init__(self, owner: tuple[int, int], losses: Losses, *, rootless: bool) -> None:
        """`owner` is the uid and gid that new files get; `rootless` records owners instead of giving them."""
        self._owner = owner
        self._losses = losses
        self._rootless = rootless

    def give(self, file: int | str, inode: Inode, xattrs: Mapping[bytes, bytes], path: Path) -> None:
        """Give all to a file that has its content; `file` is a descriptor, or a name in /proc/self/fd.

        The order matters: chown(2) takes setuid and capabilities away, a file that may not be written takes no
        `user.*`, chmod(2) changes an ACL, and any of them the times.
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
        """Whether the call was allowed; note the loss where it was refused."""
        try:
            call()
        except OSError as error:
            if error.errno not in refusals:
                raise
            self._losses.add(loss, path())
            return False
        return True
