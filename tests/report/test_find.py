"""Expressions of find: each test, how they are joined, and what is wrong with them."""

import pytest

from ocifs.errors import NotFoundError
from ocifs.image.opening import Image
from ocifs.image.rootfs import Rootfs
from ocifs.report.find import ExpressionError, find, ls_line, parse
from ocifs.report.listing import Listed
from ocifs.report.permissions import parse_permissions


def found(rootfs: Rootfs, expression: str | list[str], *paths: bytes, now: int | None = None) -> list[bytes]:
    words = expression.split() if isinstance(expression, str) else expression
    return [visit.path for visit in find(rootfs, paths or (b"/",), parse(words, rootfs, now))]


LIB = [b"/usr/lib", b"/usr/lib/lib.so", b"/usr/lib/lib.so.1", b"/usr/lib/new"]


@pytest.mark.parametrize(
    ("expression", "paths"),
    [
        ("-name lib*", [b"/etc/lib", b"/lib", *LIB[:3]]),
        ("-name LIB", []),
        ("-iname LIB", [b"/etc/lib", b"/lib", b"/usr/lib"]),
        ("-name caf?", ["/café".encode()]),
        ("-name .*", [b"/etc/.dotted"]),
        (["-name", "lib[.]so"], [b"/usr/lib/lib.so"]),
        (["-name", r"li\b.so"], [b"/usr/lib/lib.so"]),
        (["-name", r"lib\*"], []),
        (["-name", "no\udcfftext\n"], [b"/no\xfftext\n"]),
        ("-name /", [b"/"]),
        ("-path /usr/*", LIB),
        ("-wholename */lib.so", [b"/usr/lib/lib.so"]),
        ("-ipath /USR/LIB", [b"/usr/lib"]),
        (["-regex", r".*/lib\.so(\.\d)?"], LIB[1:3]),
        (["-regex", "lib"], []),
        (["-iregex", "/USR"], [b"/usr"]),
        ("-type p", [b"/pipe"]),
        ("-type c,l", [b"/lib", b"/null"]),
        ("-type w", []),
        ("-type f -size 0", [b"/etc/.dotted"]),
        ("-type f -empty", [b"/etc/.dotted"]),
        ("-type d -empty", [b"/empty", b"/gone"]),
        ("-size 3000c", [b"/etc/lib", *LIB[1:3]]),
        ("-size +5", [b"/etc/lib", *LIB[1:]]),
        ("-size 5k", [b"/usr/lib/new"]),
        ("-size +3k", [b"/usr/lib/new"]),
        ("-size 2500w", [b"/usr/lib/new"]),
        ("-size -1M -type f -name p*", []),
        ("-size 1G -name new", [b"/usr/lib/new"]),
        ("-perm 4755", [b"/usr/lib/new"]),
        ("-perm -111 -type f", [b"/etc/lib", *LIB[1:]]),
        ("-perm /u+s,+t", [b"/gone", b"/usr/lib/new"]),
        ("-perm /0 -name pipe", [b"/pipe"]),
        ("-perm -0 -name pipe", [b"/pipe"]),
        ("-user user", [b"/usr/lib/new"]),
        ("-user 1000", [b"/usr/lib/new"]),
        ("-group staff", [b"/usr/lib/new"]),
        ("-uid +0", [b"/usr/lib/new"]),
        ("-gid 50", [b"/usr/lib/new"]),
        ("-links 3", [b"/etc/lib", *LIB[1:3]]),
        ("-xattr user.*", [b"/noted"]),
        ("-xattr user.other", []),
        ("-layer 1", [b"/etc/.dotted", b"/tree", b"/usr/lib/new"]),
        ("-layer -1 -type l", [b"/lib"]),
        ("-layer +1 -type f -name n*", [b"/noted", b"/no\xfftext\n"]),
        ("-newer /tree -name nothing", []),
        ("-newer /etc/issue", []),
        ("-newermt 1971-01-01", []),
        ("-mtime +10000 -name tree", [b"/tree"]),
        ("-mtime -1", []),
        ("-mmin +10 -name tree", [b"/tree"]),
        ("-maxdepth 0", [b"/"]),
        ("-maxdepth 1 -type d", [b"/", b"/doc", b"/empty", b"/etc", b"/gone", b"/usr"]),
        ("-mindepth 2 -type d", [b"/usr/lib"]),
        ("-mindepth 1 -maxdepth 1 -name t*", [b"/tree"]),
        ("-name usr -prune -o -name lib* -print", [b"/etc/lib", b"/lib"]),
        ("-false", []),
        ("-true -maxdepth 0", [b"/"]),
        ("! -name tree -name t*", [b"/doc/two"]),
        ("-not ( -type d -o -type f )", [b"/lib", b"/null", b"/pipe"]),
        ("-name tree -o -name null -a -type f", [b"/tree"]),
        ("( -name tree -o -name null ) -a -type f", [b"/tree"]),
        ("-name tree -or -name null", [b"/null", b"/tree"]),
        ("-name new -and -type f", [b"/usr/lib/new"]),
        ("-name tree -print -o -name null", [b"/tree"]),
    ],
    ids=str,
)
def test_tests(layered: Image, expression: str | list[str], paths: list[bytes]) -> None:
    if "/etc/issue" in expression:  # gone from the merged tree
        with pytest.raises(NotFoundError):
            found(layered.rootfs, expression)
        return
    assert found(layered.rootfs, expression) == paths


def test_without_an_expression_all_is_found(layered: Image) -> None:
    everything = [b"/" + path for path, _ in layered.rootfs.walk()]
    assert found(layered.rootfs, "") == everything


@pytest.mark.parametrize(
    ("start", "first"),
    [(b"/", [b"/", b"/usr"]), (b"usr", [b"usr", b"usr/lib"]), (b"./usr", [b"./usr"]), (b"/lib", [b"/lib"]),
     (b"/lib/", [b"/lib/", b"/lib/lib.so"]), (b".", [b".", b"./usr"])],
)  # fmt: skip
def test_paths_are_printed_as_they_begin(layered: Image, start: bytes, first: list[bytes]) -> None:
    paths = found(layered.rootfs, "", start)
    assert paths[0] == first[0]
    assert set(first) <= set(paths)


def test_several_starts_in_their_order(layered: Image) -> None:
    assert found(layered.rootfs, "-maxdepth 0", b"/usr", b"/etc") == [b"/usr", b"/etc"]
    with pytest.raises(NotFoundError, match="/nowhere"):
        found(layered.rootfs, "", b"/nowhere")


def test_times(layered: Image) -> None:
    issue = layered.as_of(0)
    day = 86_400 * 10**9
    for age, (days, minutes) in {
        0: ("0", "0"),
        59 * 10**9: ("0", "1"),
        day - 1: ("0", "1440"),
        day: ("1", "1440"),
        2 * day + 1: ("2", "2881"),
    }.items():
        assert found(issue, f"-name issue -mtime {days} -mmin {minutes}", now=10**18 + age) == [b"/etc/issue"], age
    now = 10**18 + 2 * day
    for test in ("-mtime +1", "-mtime -3", "-mmin +2879", "-mmin -2881", "-newermt 2001-09-08", "-newer /etc/passwd"):
        assert found(issue, f"-name issue {test}", now=now) == [b"/etc/issue"], test
    for test in ("-mtime +2", "-mtime -2", "-mmin +2880", "-mmin -2880", "-newermt 2001-09-11"):
        assert found(issue, f"-name issue {test}", now=now) == [], test


def test_what_a_layer_changes(layered: Image) -> None:
    changes = layered.changes(2)
    assert found(changes, "-type w") == [b"/etc/issue"]
    assert found(changes, "-type c") == [b"/null"]
    (visit,) = find(changes, (b"/",), parse(["-type", "w"], changes))
    assert visit.printed == b"/etc/.wh.issue"


def test_actions_in_their_order(layered: Image) -> None:
    words = ["-name", "tree", "-print", "-print0", "-ls"]
    (visit,) = find(layered.rootfs, (b"/",), parse(words, layered.rootfs))
    assert visit.actions == ["print", "print0", "ls"]
    line = ls_line(Listed.of(layered.rootfs, visit.path, visit.nid), lambda name: name).decode()
    assert line.split()[1:7] == ["1", "-rw-r--r--", "1", "0", "0", "10"]
    assert line.endswith(" /tree")


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("-foo", "'?-foo'? is not a test"),
        ("--json", "options go before IMAGE"),
        ("-exec ls {} ;", "mount the image"),
        ("-name", "-name takes is missing"),
        ("( -name x", "is missing at the end"),
        ("-name x )", "closes nothing"),
        ("!", "a test is missing"),
        ("-name x -o", "a test is missing"),
        ("-type q", "b c d f l p s w"),
        ("-type", "missing"),
        ("-size big", "unit out of"),
        ("-size 5x", "unit out of"),
        ("-mtime soon", "write N"),
        ("-mmin x", "-mmin x"),
        ("-uid root", "write N"),
        ("-perm rwx", "write a mode"),
        ("-perm 99999", "write a mode"),
        ("-maxdepth -1", "write a number"),
        ("-newermt yesterday", "yesterday"),
        (["-regex", "("], "-regex"),
        (["-foo\x1b"], r"-foo\\x1b"),
    ],
    ids=str,
)
def test_wrong_expressions(layered: Image, expression: str | list[str], says: str) -> None:
    with pytest.raises(ExpressionError, match=says) as error:
        found(layered.rootfs, expression)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("expression", ["-user nobody", "-group nobody", "-newer /nowhere"])
def test_names_that_the_image_does_not_have(layered: Image, expression: str) -> None:
    with pytest.raises(NotFoundError, match="no"):
        found(layered.rootfs, expression)


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("644", 0o644), ("0", 0), ("07777", 0o7777), ("u+s", 0o4000), ("g+s", 0o2000), ("+t", 0o1000),
        ("a=rx", 0o555), ("=rwx", 0o777), ("u=rwx,go=rx", 0o755), ("a+rwx,o-w", 0o775), ("ug+x", 0o110),
        ("u+rws,u-w", 0o4400), ("a=", 0),
    ],
)  # fmt: skip
def test_permissions(text: str, mode: int) -> None:
    assert parse_permissions(text) == mode


@pytest.mark.parametrize("text", ["", "8", "10000", "u", "rwx", "z+x", "u+q", "u+r,", "-1", "0o644", "\uff16"])
def test_no_permissions(text: str) -> None:
    with pytest.raises(ValueError, match="write a mode"):
        parse_permissions(text)
