"""Who a container runs as: `Config.User` by the /etc/passwd and /etc/group of the merged tree (image-spec config.md).

The rule: digits are always an ID, even if a file has an account of that name; otherwise an image could have uid 1000 in
its config and uid 0 in the container. Go's `strconv.Atoi`, which container engines use, also takes a sign for one.
IDs need not be in the files.
"""

import re
from typing import NamedTuple

from ocifs.errors import NotFoundError
from ocifs.image.passwd import MAX_ID, Accounts
from ocifs.spec.document import shown

_GIVEN = re.compile(r"([+-]?)([0-9]+)", re.ASCII)
"""What means an ID rather than a name in `User`."""


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
        NotFoundError: A name is in neither file, or an ID is out of range.
    """
    name, colon, group = user.partition(":")
    login, uid, gid, home = _account(name or "0", accounts)
    if colon and group:
        return ResolvedUser(uid, _gid(group, accounts), (), home)
    additional = dict.fromkeys(
        number for _, number, members in accounts.groups() if login is not None and login in members
    )
    return ResolvedUser(uid, gid, tuple(additional), home)


def _account(name: str, accounts: Accounts) -> tuple[str | None, int, int, str | None]:
    """Return (login name, uid, gid, home directory); a uid without a line has group 0."""
    number = _given_id(name, "user")
    for login, uid, gid, home in accounts.users():
        if name == login if number is None else number == uid:
            return login, uid, gid, home
    if number is None:
        raise NotFoundError(f"user '{shown(name)}' is not in the image's /etc/passwd: choose another with --user")
    return None, number, 0, None


def _gid(name: str, accounts: Accounts) -> int:
    number = _given_id(name, "group")
    if number is not None:
        return number
    for listed, gid, _ in accounts.groups():
        if name == listed:
            return gid
    raise NotFoundError(f"group '{shown(name)}' is not in the image's /etc/group: choose another with --user")


def _given_id(text: str, what: str) -> int | None:
    """Return the ID that digits mean; None: the text is a name. Raises NotFoundError if it is out of range."""
    match = _GIVEN.fullmatch(text)
    if match is None:
        return None
    sign, digits = match[1], match[2].lstrip("0") or "0"
    number = int(digits) if len(digits) <= len(str(MAX_ID)) else MAX_ID + 1
    if number > MAX_ID or (sign == "-" and number):
        raise NotFoundError(f"{what} ID {shown(text)} is out of range 0 to {MAX_ID}: choose another with --user")
    return number
