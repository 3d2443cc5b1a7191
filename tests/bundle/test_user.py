"""Who `Config.User` is, by the image's own files."""

import pytest

from ocifs.bundle.user import ResolvedUser, resolve_user
from ocifs.errors import NotFoundError
from ocifs.image.passwd import Accounts

PASSWD = b"""\
# no line of passwd
root:x:0:0:root:/root:/bin/sh
web:x:33:34:web:/var/www:/bin/false
short:x:35
high:x:4294967294:4294967294::/high:
toohigh:x:4294967295:1::/x:
1000:x:0:0:named like an ID, and root:/root:
own:x:1000:1001:the account with that ID:/home/own:
+7:x:0:0:named like an ID with a sign:/root:
caf\xe9:x:50:50::/latin:
web:x:99:99:a second line is not looked at:/second:
"""
GROUP = b"""\
root:x:0:
adm:x:4:web,root
web:x:34:
audio:x:29:web
again:x:29:web
broken:x:no:web
short:x:1
1000:x:0:
2000:x:0:own
+7:x:0:
others:x:5:webmaster
"""

_USERS = {
    "": ResolvedUser(0, 0, (4,), "/root"),
    "root": ResolvedUser(0, 0, (4,), "/root"),
    "0": ResolvedUser(0, 0, (4,), "/root"),
    "web": ResolvedUser(33, 34, (4, 29), "/var/www"),
    "33": ResolvedUser(33, 34, (4, 29), "/var/www"),
    "web:": ResolvedUser(33, 34, (4, 29), "/var/www"),
    "web:adm": ResolvedUser(33, 4, (), "/var/www"),
    "web:29": ResolvedUser(33, 29, (), "/var/www"),
    "web:12345": ResolvedUser(33, 12345, (), "/var/www"),
    ":adm": ResolvedUser(0, 4, (), "/root"),
    "1234": ResolvedUser(1234, 0, (), None),
    "1234:5678": ResolvedUser(1234, 5678, (), None),
    "1234:adm": ResolvedUser(1234, 4, (), None),
    "high": ResolvedUser(4294967294, 4294967294, (), "/high"),
    "1000": ResolvedUser(1000, 1001, (0,), "/home/own"),
    "0001000": ResolvedUser(1000, 1001, (0,), "/home/own"),
    "+1000": ResolvedUser(1000, 1001, (0,), "/home/own"),
    "+7": ResolvedUser(7, 0, (), None),
    "-0": ResolvedUser(0, 0, (4,), "/root"),
    "1000:1000": ResolvedUser(1000, 1000, (), "/home/own"),
    "own:2000": ResolvedUser(1000, 2000, (), "/home/own"),
    "own:+7": ResolvedUser(1000, 7, (), "/home/own"),
    "4294967294:4294967294": ResolvedUser(4294967294, 4294967294, (), "/high"),
}


@pytest.mark.parametrize("user", _USERS)
def test_is_found(user: str) -> None:
    assert resolve_user(user, Accounts(PASSWD, GROUP)) == _USERS[user]


@pytest.mark.parametrize("user", ["nobody", "short", "toohigh", "0x1", "1_000", " 1", "\u0663", "we", "x" * 999])
def test_an_unknown_user_is_an_error(user: str) -> None:
    with pytest.raises(NotFoundError, match="/etc/passwd: choose another with --user") as error:
        resolve_user(user, Accounts(PASSWD, GROUP))
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("group", ["nogroup", "broken", "short", "4x"])
def test_an_unknown_group_is_an_error(group: str) -> None:
    with pytest.raises(NotFoundError, match="/etc/group"):
        resolve_user(f"web:{group}", Accounts(PASSWD, GROUP))


@pytest.mark.parametrize("number", ["4294967295", "-1", "18446744073709551616", "9" * 9999])
def test_an_id_out_of_range_is_an_error(number: str) -> None:
    for user, what in ((number, "user"), (f"web:{number}", "group")):
        with pytest.raises(NotFoundError, match=f"{what} ID .* is out of range 0 to 4294967294") as error:
            resolve_user(user, Accounts(PASSWD, GROUP))
        assert len(str(error.value)) < 300


@pytest.mark.parametrize(("user", "uid"), [("", 0), ("0", 0), ("7", 7)])
def test_an_image_without_the_files_has_numbers_only(user: str, uid: int) -> None:
    assert resolve_user(user, Accounts()) == ResolvedUser(uid, 0)
    with pytest.raises(NotFoundError):
        resolve_user("root", Accounts())
