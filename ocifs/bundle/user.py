"""Who a container runs as: `Config.User` by the /etc/passwd and /etc/group of the merged tree (image-spec config.md).

Numbers need not be in the files. What is no line of passwd(5) or group(5) is passed over, as the C library does.
"""

import re
import stat
from collections.abc import Iterator
from typing import NamedTuple, Self

from ocifs.errors import NotFoundError
from ocifs.image.rootfs import Rootfs
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.spec.document import shown

_MAX_ID = (1 << 32) - 2
"""The number above it stands for no user at all (chown(2))."""
_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)


class Accounts(NamedTuple):
    """The contents of the two files; empty where there is none."""

    passwd: bytes = b""
    group: bytes = b""

    @classmethod
    def of(cls, rootfs: Rootfs, limits: Limits = DEFAULT_LIMITS) -> Self:
        """Read the files of an image. Raises LimitError."""
        return cls(_read(rootfs, "/etc/passwd", limits), _read(rootfs, "/etc/group", limits))


class ResolvedUser(NamedTuple):
    """A user by number."""

    uid: int
    gid: int
    additional_gids: tuple[int, ...] = ()
    home: str | None = None


def resolve_user(user: str, accounts: Accounts) -> ResolvedUser:
    """Return who `USER[:GROUP]` is, each a name or a number; the empty string is root.

    Without a group it is the user's own, with all groups that list the user; a group that is given is the only one.

    Raises:
        NotFoundError: A name is in neither file, or a number is out of range.
    """
    name, colon, group = user.partition(":")
    login, uid, gid, home = _account(name or "0", accounts.passwd)
    if colon and group:
        return ResolvedUser(uid, _gid(group, accounts.group), (), home)
    additional = dict.fromkeys(
        number for _, number, members in _groups(accounts.group) if login is not None and login in members
    )
    return ResolvedUser(uid, gid, tuple(additional), home)


def _account(name: str, passwd: bytes) -> tuple[str | None, int, int, str | None]:
    """Return (login name, uid, gid, home directory); a number needs no line, and is in group 0 then."""
    number = _number(name)
    for login, uid, gid, home in _users(passwd):
        if name == login or number == uid:
            return login, uid, gid, home
    if number is None:
        raise NotFoundError(f"user '{shown(name)}' is not in the image's /etc/passwd: give another by --user")
    return None, number, 0, None


def _gid(name: str, group: bytes) -> int:
    number = _number(name)
    for listed, gid, _ in _groups(group):
        if name == listed or number == gid:
            return gid
    if number is None:
        raise NotFoundError(f"group '{shown(name)}' is not in the image's /etc/group: give another by --user")
    return number


def _users(passwd: bytes) -> Iterator[tuple[str, int, int, str]]:
    for line in passwd.decode(errors="replace").split("\n"):
        fields = line.split(":")
        if len(fields) >= 6:
            uid, gid = _number(fields[2]), _number(fields[3])
            if fields[0] and uid is not None and gid is not None:
                yield fields[0], uid, gid, fields[5]


def _groups(group: bytes) -> Iterator[tuple[str, int, list[str]]]:
    for line in group.decode(errors="replace").split("\n"):
        fields = line.rstrip("\r").split(":")
        if len(fields) >= 4 and fields[0] and (gid := _number(fields[2])) is not None:
            yield fields[0], gid, fields[3].split(",")


def _number(text: str) -> int | None:
    if _NUMBER.fullmatch(text) is None:
        return None
    number = int(text)
    return number if number <= _MAX_ID else None


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
