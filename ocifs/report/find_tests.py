"""The tests of find(1): from the name of a test and its argument to a function of a file.

Tests with the names of GNU find behave like GNU find. They look up attributes of a file only on demand.
"""

import fnmatch
import os
import re
import stat
from collections.abc import Callable
from datetime import datetime

from ocifs.errors import NotFoundError, printable_path
from ocifs.image.passwd import Names
from ocifs.image.rootfs import Rootfs
from ocifs.report.permissions import parse_permissions
from ocifs.report.posix_regex import to_python
from ocifs.report.visit import Test, Visit

_REGEXTYPES = {
    **dict.fromkeys(("posix-extended", "posix-egrep", "egrep", "awk", "posix-awk", "gnu-awk"), "extended"),
    **dict.fromkeys(("posix-basic", "grep", "sed", "ed"), "basic"),
    "python": "python",
}


class FindContext:
    """What tests refer to: the image, the time, and the syntax of the regular expressions that follow."""

    def __init__(self, rootfs: Rootfs, now: int) -> None:
        """`now` is in nanoseconds since the epoch."""
        self.rootfs = rootfs
        self.now = now
        self.names = Names(rootfs)
        self._regextype = "python"

    def use_regextype(self, name: str) -> Test:
        """Use another syntax from here on. Raises ValueError."""
        if name not in _REGEXTYPES:
            raise ValueError(f"the types are {', '.join(_REGEXTYPES)}")
        self._regextype = _REGEXTYPES[name]
        return true

    def regex(self, pattern: str) -> str:
        """Return a regular expression for Python. Raises re.error."""
        if self._regextype == "python":
            return pattern
        return os.fsdecode(to_python(os.fsencode(pattern), extended=self._regextype == "extended")[0])


def true(visit: Visit) -> bool:
    """Return True, for any file."""
    return True


def _prune(visit: Visit) -> bool:
    visit.pruned = True
    return True


def _empty(visit: Visit) -> bool:
    if stat.S_ISDIR(visit.inode.mode):
        return next(visit.rootfs.tree.entries(visit.nid), None) is None
    return stat.S_ISREG(visit.inode.mode) and visit.inode.size == 0


def _glob(argument: str, *, whole: bool = False, fold: bool = False) -> Test:
    return _matching(_unquoted(argument), whole=whole, fold=fold)


def _unquoted(glob: str) -> str:
    # fnmatch has no backslash: a quoted special character becomes a set of one.
    return fnmatch.translate(
        re.sub(r"\\(.)", lambda quoted: f"[{quoted[1]}]" if quoted[1] in "*?[" else quoted[1], glob)
    )


def _fits(pattern: str, *, fold: bool) -> Callable[[bytes], bool]:
    # Match text, like the words of a command line, so that one `?` stands for one character.
    matches = re.compile(pattern, re.DOTALL | (re.IGNORECASE if fold else 0)).fullmatch
    return lambda name: matches(name.decode(errors="surrogateescape")) is not None


def _matching(pattern: str, *, whole: bool, fold: bool = False) -> Test:
    fits = _fits(pattern, fold=fold)
    return (lambda visit: fits(visit.path)) if whole else (lambda visit: fits(visit.name))


def _link(argument: str, *, fold: bool = False) -> Test:
    fits = _fits(_unquoted(argument), fold=fold)
    return lambda visit: visit.target is not None and fits(visit.target)


def _same(nid: int) -> Test:
    return lambda visit: visit.nid == nid


TYPES = {
    "f": stat.S_IFREG,
    "d": stat.S_IFDIR,
    "l": stat.S_IFLNK,
    "c": stat.S_IFCHR,
    "b": stat.S_IFBLK,
    "p": stat.S_IFIFO,
    "s": stat.S_IFSOCK,
}


def _type(argument: str) -> Test:
    letters = set(argument.split(","))
    if not letters <= TYPES.keys() | {"w"}:
        raise ValueError("write one or more of b c d f l p s w, with commas between")
    kinds = {TYPES[letter] for letter in letters - {"w"}}
    whiteouts = "w" in letters

    def test(visit: Visit) -> bool:
        if visit.rootfs.is_whiteout(visit.inode):
            return whiteouts
        return stat.S_IFMT(visit.inode.mode) in kinds

    return test


def _counted(argument: str, value: Callable[[Visit], int]) -> Test:
    """Compare like find: `N`, `+N` for more, `-N` for less."""
    digits = argument.removeprefix("+") if argument.startswith("+") else argument.removeprefix("-")
    if not digits.isdecimal():
        raise ValueError("write N, +N or -N")
    number = int(digits)
    if argument.startswith("+"):
        return lambda visit: value(visit) > number
    if argument.startswith("-"):
        return lambda visit: value(visit) < number
    return lambda visit: value(visit) == number


_UNITS = {"c": 1, "w": 2, "b": 512, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _size(argument: str) -> Test:
    unit = _UNITS.get(argument[-1:])
    count = argument if unit is None else argument[:-1]
    if not count.lstrip("+-").isdecimal():
        raise ValueError("write N, +N or -N, and a unit out of c w b k M G")
    return _counted(count, lambda visit: -(-visit.inode.size // (unit or 512)))


def _age(context: FindContext, argument: str, seconds: int) -> Test:
    return _counted(argument, lambda visit: (context.now - visit.inode.mtime_ns) // (seconds * 1_000_000_000))


def _minutes(context: FindContext, argument: str) -> Test:
    # Minutes compare to the nanosecond; days, in `_age`, compare in whole days.
    number = 60_000_000_000 * int(argument.lstrip("+-"))
    if argument.startswith("+"):
        return lambda visit: context.now - visit.inode.mtime_ns > number
    if argument.startswith("-"):
        return lambda visit: context.now - visit.inode.mtime_ns < number
    return lambda visit: 0 <= number - (context.now - visit.inode.mtime_ns) < 60_000_000_000


def _newer(context: FindContext, argument: str) -> Test:
    than = context.rootfs.tree.inode(context.rootfs.lookup(argument, follow=False)).mtime_ns
    return lambda visit: visit.inode.mtime_ns > than


def _newer_than_time(argument: str) -> Test:
    than = int(datetime.fromisoformat(argument).timestamp() * 1_000_000_000)
    return lambda visit: visit.inode.mtime_ns > than


def _permissions(argument: str) -> Test:
    kind = argument[:1] if argument[:1] in {"-", "/"} else ""
    bits = parse_permissions(argument.removeprefix(kind))
    if kind == "-":
        return lambda visit: visit.inode.mode & bits == bits
    if kind == "/" and bits:
        return lambda visit: visit.inode.mode & bits != 0
    return lambda visit: kind == "/" or stat.S_IMODE(visit.inode.mode) == bits


def _owned(context: FindContext, argument: str, *, group: bool) -> Test:
    number = int(argument) if argument.isdecimal() else _number_of(context, argument, group=group)
    if group:
        return lambda visit: visit.inode.gid == number
    return lambda visit: visit.inode.uid == number


def _number_of(context: FindContext, name: str, *, group: bool) -> int:
    """Return the uid of a user, or the gid of a `group`. Raises NotFoundError, LimitError."""
    text = os.fsencode(name).decode(errors="replace")
    names = context.names.groups if group else context.names.users
    for number, each in names.items():
        if each == text:
            return number
    what, path = ("group", "/etc/group") if group else ("user", "/etc/passwd")
    raise NotFoundError(f"the image has no {what} '{printable_path(name)}' in {path}")


def _xattr(argument: str) -> Test:
    name = argument.encode(errors="surrogateescape")
    return lambda visit: any(fnmatch.fnmatchcase(each, name) for each in visit.rootfs.tree.xattrs(visit.nid))


PLAIN: dict[str, Callable[[FindContext], Test]] = {
    "-true": lambda context: true,
    "-false": lambda context: lambda visit: False,
    "-prune": lambda context: _prune,
    "-empty": lambda context: _empty,
    "-nouser": lambda context: lambda visit: visit.inode.uid not in context.names.users,
    "-nogroup": lambda context: lambda visit: visit.inode.gid not in context.names.groups,
    # An image is one file system, and none of its files changes during the search.
    "-xdev": lambda context: true,
    "-mount": lambda context: true,
    "-noleaf": lambda context: true,
    "-ignore_readdir_race": lambda context: true,
    "-noignore_readdir_race": lambda context: true,
    "-warn": lambda context: true,
    "-nowarn": lambda context: true,
}
TESTS: dict[str, Callable[[FindContext, str], Test]] = {
    "-name": lambda context, argument: _glob(argument),
    "-iname": lambda context, argument: _glob(argument, fold=True),
    "-path": lambda context, argument: _glob(argument, whole=True),
    "-wholename": lambda context, argument: _glob(argument, whole=True),
    "-ipath": lambda context, argument: _glob(argument, whole=True, fold=True),
    "-iwholename": lambda context, argument: _glob(argument, whole=True, fold=True),
    "-lname": lambda context, argument: _link(argument),
    "-ilname": lambda context, argument: _link(argument, fold=True),
    "-regex": lambda context, argument: _matching(context.regex(argument), whole=True),
    "-iregex": lambda context, argument: _matching(context.regex(argument), whole=True, fold=True),
    "-regextype": lambda context, argument: context.use_regextype(argument),
    "-type": lambda context, argument: _type(argument),
    "-size": lambda context, argument: _size(argument),
    "-mtime": lambda context, argument: _age(context, argument, 86_400),
    "-mmin": _minutes,
    "-newer": _newer,
    "-samefile": lambda context, argument: _same(context.rootfs.lookup(argument, follow=False)),
    "-newermt": lambda context, argument: _newer_than_time(argument),
    "-perm": lambda context, argument: _permissions(argument),
    "-user": lambda context, argument: _owned(context, argument, group=False),
    "-group": lambda context, argument: _owned(context, argument, group=True),
    "-uid": lambda context, argument: _counted(argument, lambda visit: visit.inode.uid),
    "-gid": lambda context, argument: _counted(argument, lambda visit: visit.inode.gid),
    "-links": lambda context, argument: _counted(argument, lambda visit: visit.inode.nlink),
    "-inum": lambda context, argument: _counted(argument, lambda visit: visit.nid),
    "-xattr": lambda context, argument: _xattr(argument),
    "-layer": lambda context, argument: _counted(argument, lambda visit: visit.inode.layer),
}
