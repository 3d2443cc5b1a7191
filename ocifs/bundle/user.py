"""Resolve `Config.User` with the /etc/passwd and /etc/group of the merged tree (image-spec config.md).

Digits are always an ID, even if an account has them as its name; otherwise an image could have uid 1000 in its config
and uid 0 in the container. A sign may precede them, as in Go's `strconv.Atoi`, which container engines use. IDs need
not be in the files. Lines that passwd(5) or group(5) does not allow are skipped, as in the C library.
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
"""The next number means "no user" (chown(2))."""
_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)
"""An ID in one of the files."""
_ID = re.compile(r"([+-]?)([0-9]+)", re.ASCII)
"""An ID, rather than a name, in `User`."""


class Accounts(NamedTuple):
    """The contents of the two files; empty for a missing one."""

    passwd: bytes = b""
    group: bytes = b""

    @classmethod
    def of(cls, rootfs: Rootfs, limits: Limits = DEFAULT_LIMITS) -> Self:
        """Read the files of an image. Raises LimitError."""
        return cls(_read(rootfs, "/etc/passwd", limits), _read(rootfs, "/etc/group", limits))


class ResolvedUser(NamedTuple):
    """The IDs of a user."""

    uid: int
    gid: int
    additional_gids: tuple[int, ...] = ()
    home: str | None = None


def resolve_user(user: str, accounts: Accounts) -> ResolvedUser:
    """Resolve `USER[:GROUP]`, each a name or a number; the empty string is root.

    An explicit group is the only one. Without it, the groups are the user's own and all that list the user.

    Raises:
        NotFoundError: A name is in neither file, or an ID is out of range.
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
    """Return (login name, uid, gid, home directory); the gid is 0 for a uid that is not in the file."""
    number = _parse_id(name, "user")
    for login, uid, gid, home in _users(passwd):
        if name == login if number is None else number == uid:
            return login, uid, gid, home
    if number is None:
        raise NotFoundError(f"user '{shown(name)}' is not in the image's /etc/passwd: choose another with --user")
    return None, number, 0, None


def _gid(name: str, group: bytes) -> int:
    number = _parse_id(name, "group")
    if number is not None:
        return number
    for listed, gid, _ in _groups(group):
        if name == listed:
            return gid
    raise NotFoundError(f"group '{shown(name)}' is not in the image's /etc/group: choose another with --user")


def _parse_id(text: str, what: str) -> int | None:
    """Parse an ID; return None for a name. Raises NotFoundError if the ID is out of range."""
    match = _ID.fullmatch(text)
    if match is None:
        return None
    sign, digits = match[1], match[2].lstrip("0") or "0"
    number = int(digits) if len(digits) <= len(str(_MAX_ID)) else _MAX_ID + 1
    if number > _MAX_ID or (sign == "-" and number):
        raise NotFoundError(f"{what} ID {shown(text)} is out of range 0 to {_MAX_ID}: choose another with --user")
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
