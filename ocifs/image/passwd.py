"""User and group names of an image, from its own /etc/passwd and /etc/group; never from the host's.

Lines that passwd(5) or group(5) does not allow are skipped, as in the C library. The limit `accounts` bounds each file.
"""

import re
import stat
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import NamedTuple, Self

from ocifs.errors import NotFoundError
from ocifs.image.rootfs import Rootfs
from ocifs.limits import DEFAULT_LIMITS, Limits

MAX_ID = (1 << 32) - 2
"""The next number stands for no user at all (chown(2))."""
_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)


class PasswdEntry(NamedTuple):
    """A line of /etc/passwd."""

    name: str
    uid: int
    gid: int
    home: str


class GroupEntry(NamedTuple):
    """A line of /etc/group."""

    name: str
    gid: int
    members: list[str]


class Accounts(NamedTuple):
    """The contents of the two files; empty if the image has none."""

    passwd: bytes = b""
    group: bytes = b""

    @classmethod
    def of(cls, rootfs: Rootfs, limits: Limits = DEFAULT_LIMITS) -> Self:
        """Read the files of an image. Raises LimitError."""
        return cls(_read(rootfs, "/etc/passwd", limits), _read(rootfs, "/etc/group", limits))

    def users(self) -> Iterator[PasswdEntry]:
        """Yield the users in the order of the file."""
        for line in self.passwd.decode(errors="replace").split("\n"):
            fields = line.split(":")
            if len(fields) >= 6:
                uid, gid = _number(fields[2]), _number(fields[3])
                if fields[0] and uid is not None and gid is not None:
                    yield PasswdEntry(fields[0], uid, gid, fields[5])

    def groups(self) -> Iterator[GroupEntry]:
        """Yield the groups in the order of the file."""
        for line in self.group.decode(errors="replace").split("\n"):
            fields = line.rstrip("\r").split(":")
            if len(fields) >= 4 and fields[0] and (gid := _number(fields[2])) is not None:
                yield GroupEntry(fields[0], gid, fields[3].split(","))


class Names:
    """The users and groups of an image, read when a format first needs them."""

    def __init__(self, rootfs: Rootfs) -> None:
        self._rootfs = rootfs

    @cached_property
    def _accounts(self) -> Accounts:
        return Accounts.of(self._rootfs, self._rootfs.limits)

    @cached_property
    def users(self) -> Mapping[int, str]:
        """Name of each uid; the first line of /etc/passwd counts."""
        return {user.uid: user.name for user in reversed(list(self._accounts.users()))}

    @cached_property
    def groups(self) -> Mapping[int, str]:
        """Name of each gid."""
        return {group.gid: group.name for group in reversed(list(self._accounts.groups()))}


def _number(text: str) -> int | None:
    if _NUMBER.fullmatch(text) is None:
        return None
    number = int(text)
    return number if number <= MAX_ID else None


def _read(rootfs: Rootfs, path: str, limits: Limits) -> bytes:
    try:
        inode = rootfs.tree.inode(rootfs.lookup(path))
    except NotFoundError:
        return b""
    if not stat.S_ISREG(inode.mode):
        return b""
    if inode.size > limits.accounts:
        raise limits.passed("accounts", f"{path} of the image has {inode.size} bytes")
    return rootfs.read(inode.nid, inode.size, 0)
