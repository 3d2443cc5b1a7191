"""Select files by an expression like that of find(1).

`parse` turns command-line words into an `Expression`; `find` walks a tree with it. Tests with the names of GNU find
behave like GNU find. They look up attributes of a file only on demand.
"""

import fnmatch
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from ocifs.erofs.reader import Inode
from ocifs.errors import NotFoundError, OcifsError, printable_path
from ocifs.image.passwd import Accounts
from ocifs.image.rootfs import Rootfs
from ocifs.report.listing import Listed, Show, shown_time, shown_with_target, size_or_device, unpainted, whiteout_name
from ocifs.report.permissions import parse_permissions

Action = Literal["print", "print0", "ls"]


class ExpressionError(ValueError):
    """An expression that cannot be parsed: a usage error."""


class Visit:
    """A file that find visits."""

    def __init__(self, rootfs: Rootfs, path: bytes, below: bytes, nid: int) -> None:
        self.rootfs = rootfs
        self.path = path
        self.nid = nid
        self.depth = below.count(b"/") + 1 if below else 0
        self.pruned = False
        self.actions: list[Action] = []
        self._inode: Inode | None = None

    @property
    def inode(self) -> Inode:
        """Its attributes."""
        if self._inode is None:
            self._inode = self.rootfs.tree.inode(self.nid)
        return self._inode

    @property
    def name(self) -> bytes:
        """The last component of its path."""
        return self.path.rstrip(b"/").rpartition(b"/")[2] or b"/"

    @property
    def printed(self) -> bytes:
        """The path for the printing actions; a whiteout has the name of its tar entry."""
        return whiteout_name(self.path) if self.rootfs.is_whiteout(self.inode) else self.path


Test = Callable[[Visit], bool]


class Expression(NamedTuple):
    """What to search for, and at which depth."""

    test: Test
    """Appends actions to the visit."""
    least: int
    most: int | None


def find(rootfs: Rootfs, paths: Sequence[bytes], expression: Expression) -> Iterator[Visit]:
    """Yield each file at and below `paths` that has an action, depth first and by name.

    Raises:
        NotFoundError: One of the paths does not exist.
    """
    for path in paths:
        walk = rootfs.tree.walk(rootfs.lookup(path, follow=False))
        prefix = path if path.endswith(b"/") else path + b"/"
        left_out: bool | None = None
        while True:
            try:
                below, nid = walk.send(left_out)
            except StopIteration:
                break
            visit = Visit(rootfs, prefix + below if below else path, below, nid)
            if visit.depth >= expression.least:
                expression.test(visit)
                if visit.actions:
                    yield visit
            left_out = visit.pruned or visit.depth == expression.most


def ls_line(entry: Listed, show: Show) -> bytes:
    """Return the line of the action `-ls`."""
    inode = entry.inode
    text = (
        f"{inode.nid:>9} {-(-inode.blocks // 2):>6} {entry.mode} {inode.nlink:>3} {inode.uid:<8} {inode.gid:<8} "
        f"{size_or_device(inode):>8} {shown_time(inode.mtime_ns)} "
    )
    return text.encode() + shown_with_target(entry, show, unpainted)


def parse(words: Sequence[str], rootfs: Rootfs, now: int | None = None) -> Expression:
    """Return the expression in `words`; names of users and paths in it refer to `rootfs`.

    `now`: the time from which ages count, in nanoseconds since the epoch; by default that of the call.

    Raises:
        ExpressionError: The expression is malformed; the text says where.
        NotFoundError: A path or user does not exist.
    """
    parser = _Parser(words, rootfs, time.time_ns() if now is None else now)
    test = parser.alternatives() if words else _true
    if parser.words:
        raise ExpressionError(f"find: '{printable_path(parser.words[-1])}' closes nothing")
    if not parser.acts:
        test = _both(test, _act("print"))
    return Expression(test, parser.least, parser.most)


class _Parser:
    """The remaining words, the next one last, and the options found so far."""

    def __init__(self, words: Sequence[str], rootfs: Rootfs, now: int) -> None:
        self.words = list(words)[::-1]
        self.rootfs = rootfs
        self.now = now
        self.acts = False
        self.least = 0
        self.most: int | None = None

    def alternatives(self) -> Test:
        """Parse terms joined by `-o`."""
        test = self._conjunction()
        while self.words and self.words[-1] in {"-o", "-or"}:
            self.words.pop()
            test = _either(test, self._conjunction())
        return test

    def _conjunction(self) -> Test:
        test = self._term()
        while self.words and self.words[-1] not in {"-o", "-or", ")"}:
            if self.words[-1] in {"-a", "-and"}:
                self.words.pop()
            test = _both(test, self._term())
        return test

    def _term(self) -> Test:
        word = self._next("a test")
        if word in {"!", "-not"}:
            test = self._term()
            return lambda visit: not test(visit)
        if word == "(":
            test = self.alternatives()
            if self._next("')'") != ")":
                raise ExpressionError("find: '(' is not closed")
            return test
        if word in _ACTIONS:
            self.acts = True
            return _act(_ACTIONS[word])
        if word in _PLAIN:
            return _PLAIN[word]
        if word not in _TESTS:
            raise _unknown(word)
        argument = self._next(f"what {word} takes")
        try:
            return _TESTS[word](self, argument)
        except (ValueError, re.error) as error:
            if isinstance(error, OcifsError):
                raise
            raise ExpressionError(f"find: {word} {printable_path(argument)}: {error}") from None

    def _next(self, what: str) -> str:
        if not self.words:
            raise ExpressionError(f"find: {what} is missing at the end")
        return self.words.pop()

    def depth(self, argument: str, *, least: bool) -> Test:
        """Record a bound on the depth."""
        if not argument.isdecimal():
            raise ValueError("write a number")
        if least:
            self.least = int(argument)
        else:
            self.most = int(argument)
        return _true


def _unknown(word: str) -> ExpressionError:
    shown = printable_path(word)
    if word in {"-exec", "-execdir", "-ok", "-okdir", "-delete", "-fprint", "-printf"}:
        return ExpressionError(f"find: {shown} is not supported: mount the image, or pipe the output of -print0")
    if word.startswith("--"):
        return ExpressionError(f"find: {shown} is no test: options go before IMAGE")
    return ExpressionError(f"find: {shown} is no test: see `ocifs find --help`")


def _true(visit: Visit) -> bool:
    return True


def _prune(visit: Visit) -> bool:
    visit.pruned = True
    return True


def _empty(visit: Visit) -> bool:
    if stat.S_ISDIR(visit.inode.mode):
        return all(name in {b".", b".."} for name, *_ in visit.rootfs.tree.readdir(visit.nid))
    return stat.S_ISREG(visit.inode.mode) and visit.inode.size == 0


def _act(action: Action) -> Test:
    def act(visit: Visit) -> bool:
        visit.actions.append(action)
        return True

    return act


def _both(first: Test, second: Test) -> Test:
    return lambda visit: first(visit) and second(visit)


def _either(first: Test, second: Test) -> Test:
    return lambda visit: first(visit) or second(visit)


def _glob(argument: str, *, whole: bool = False, fold: bool = False) -> Test:
    # fnmatch has no backslash: a quoted special character becomes a set of one.
    unquoted = re.sub(r"\\(.)", lambda quoted: f"[{quoted[1]}]" if quoted[1] in "*?[" else quoted[1], argument)
    return _matching(fnmatch.translate(unquoted), whole=whole, fold=fold)


def _matching(pattern: str, *, whole: bool, fold: bool = False) -> Test:
    # Match text, like the words of a command line, so that one `?` stands for one character.
    matches = re.compile(pattern, re.DOTALL | (re.IGNORECASE if fold else 0)).fullmatch
    if whole:
        return lambda visit: matches(visit.path.decode(errors="surrogateescape")) is not None
    return lambda visit: matches(visit.name.decode(errors="surrogateescape")) is not None


_TYPES = {
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
    if not letters <= _TYPES.keys() | {"w"}:
        raise ValueError("write one or more of b c d f l p s w, with commas between")
    kinds = {_TYPES[letter] for letter in letters - {"w"}}
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


def _age(parser: _Parser, argument: str, seconds: int) -> Test:
    return _counted(argument, lambda visit: (parser.now - visit.inode.mtime_ns) // (seconds * 1_000_000_000))


def _minutes(parser: _Parser, argument: str) -> Test:
    # Minutes compare to the nanosecond; days, in `_age`, compare in whole days.
    number = 60_000_000_000 * int(argument.lstrip("+-"))
    if argument.startswith("+"):
        return lambda visit: parser.now - visit.inode.mtime_ns > number
    if argument.startswith("-"):
        return lambda visit: parser.now - visit.inode.mtime_ns < number
    return lambda visit: 0 <= number - (parser.now - visit.inode.mtime_ns) < 60_000_000_000


def _newer(parser: _Parser, argument: str) -> Test:
    than = parser.rootfs.tree.inode(parser.rootfs.lookup(argument, follow=False)).mtime_ns
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


def _owned(parser: _Parser, argument: str, *, group: bool) -> Test:
    number = int(argument) if argument.isdecimal() else _number_of(parser.rootfs, argument, group=group)
    if group:
        return lambda visit: visit.inode.gid == number
    return lambda visit: visit.inode.uid == number


def _number_of(rootfs: Rootfs, name: str, *, group: bool) -> int:
    """Return the uid of a user, or the gid of a `group`. Raises NotFoundError, LimitError."""
    accounts = Accounts.of(rootfs, rootfs.limits)
    text = os.fsencode(name).decode(errors="replace")
    for account in accounts.groups() if group else accounts.users():
        if account.name == text:
            return account[1]
    what, path = ("group", "/etc/group") if group else ("user", "/etc/passwd")
    raise NotFoundError(f"the image has no {what} '{printable_path(name)}' in {path}")


def _xattr(argument: str) -> Test:
    name = argument.encode(errors="surrogateescape")
    return lambda visit: any(fnmatch.fnmatchcase(each, name) for each in visit.rootfs.tree.xattrs(visit.nid))


_ACTIONS: dict[str, Action] = {"-print": "print", "-print0": "print0", "-ls": "ls"}
_PLAIN: dict[str, Test] = {
    "-true": _true,
    "-false": lambda visit: False,
    "-prune": _prune,
    "-empty": _empty,
}
_TESTS: dict[str, Callable[[_Parser, str], Test]] = {
    "-name": lambda parser, argument: _glob(argument),
    "-iname": lambda parser, argument: _glob(argument, fold=True),
    "-path": lambda parser, argument: _glob(argument, whole=True),
    "-wholename": lambda parser, argument: _glob(argument, whole=True),
    "-ipath": lambda parser, argument: _glob(argument, whole=True, fold=True),
    "-regex": lambda parser, argument: _matching(argument, whole=True),
    "-iregex": lambda parser, argument: _matching(argument, whole=True, fold=True),
    "-type": lambda parser, argument: _type(argument),
    "-size": lambda parser, argument: _size(argument),
    "-mtime": lambda parser, argument: _age(parser, argument, 86_400),
    "-mmin": _minutes,
    "-newer": _newer,
    "-newermt": lambda parser, argument: _newer_than_time(argument),
    "-perm": lambda parser, argument: _permissions(argument),
    "-user": lambda parser, argument: _owned(parser, argument, group=False),
    "-group": lambda parser, argument: _owned(parser, argument, group=True),
    "-uid": lambda parser, argument: _counted(argument, lambda visit: visit.inode.uid),
    "-gid": lambda parser, argument: _counted(argument, lambda visit: visit.inode.gid),
    "-links": lambda parser, argument: _counted(argument, lambda visit: visit.inode.nlink),
    "-inum": lambda parser, argument: _counted(argument, lambda visit: visit.nid),
    "-xattr": lambda parser, argument: _xattr(argument),
    "-layer": lambda parser, argument: _counted(argument, lambda visit: visit.inode.layer),
    "-maxdepth": lambda parser, argument: parser.depth(argument, least=False),
    "-mindepth": lambda parser, argument: parser.depth(argument, least=True),
}
