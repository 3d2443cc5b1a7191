"""Resolve `Config.User` with the /etc/passwd and /etc/group of the merged tree (image-spec config.md).

Digits are always an ID, even if an account has them as its name; otherwise an image could have uid 1000 in its config
and uid 0 in the container. A sign may precede them, as in Go's `strconv.Atoi`, which container engines use. IDs need
not be in the files.
"""

import re
from typing import NamedTuple

from ocifs.errors import NotFoundError
from ocifs.image.passwd import MAX_ID, Accounts
from ocifs.spec.document import shown

_ID = re.compile(r"([+-]?)([0-9]+)", re.ASCII)
"""An ID, rather than a name, in `User`."""


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
    login, uid, gid, home = _account(name or "0", accounts)
    if colon and group:
        return ResolvedUser(uid, _gid(group, accounts), (), home)
    additional = dict.fromkeys(
        number for _, number, members in accounts.groups() if login is not None and login in members
    )
    return ResolvedUser(uid, gid, tuple(additional), home)


def _account(name: str, accounts: Accounts) -> tuple[str | None, int, int, str | None]:
    """Return (login name, uid, gid, home directory); the gid is 0 for a uid that is not in the file."""
    number = _parse_id(name, "user")
    for login, uid, gid, home in accounts.users():
        if name == login if number is None else number == uid:
            return login, uid, gid, home
    if number is None:
        raise NotFoundError(f"user '{shown(name)}' is not in the image's /etc/passwd: choose another with --user")
    return None, number, 0, None


def _gid(name: str, accounts: Accounts) -> int:
    number = _parse_id(name, "group")
    if number is not None:
        return number
    for listed, gid, _ in accounts.groups():
        if name == listed:
            return gid
    raise NotFoundError(f"group '{shown(name)}' is not in the image's /etc/group: choose another with --user")


def check_ids(user: str) -> None:
    """Check the numbers in `USER[:GROUP]`. Raises ValueError if one is no ID."""
    name, _, group = user.partition(":")
    _id_of(name, "user")
    _id_of(group, "group")


def _parse_id(text: str, what: str) -> int | None:
    """Parse an ID; return None for a name. Raises NotFoundError if the ID is out of range."""
    try:
        return _id_of(text, what)
    except ValueError as error:
        raise NotFoundError(f"{error}: choose another with --user") from None


def _id_of(text: str, what: str) -> int | None:
    """Parse an ID; return None for a name. Raises ValueError if the ID is out of range."""
    match = _ID.fullmatch(text)
    if match is None:
        return None
    sign, digits = match[1], match[2].lstrip("0") or "0"
    number = int(digits) if len(digits) <= len(str(MAX_ID)) else MAX_ID + 1
    if number > MAX_ID or (sign == "-" and number):
        raise ValueError(f"{what} ID {shown(text)} is out of range 0 to {MAX_ID}")
    return number
