"""Select files by an expression like that of find(1).

`parse` turns command-line words into an `Expression`; `find` walks a tree with it. `ocifs.report.find_tests` has the
tests; this module knows operators and actions.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ocifs.errors import OcifsError, printable_path
from ocifs.image.rootfs import Rootfs
from ocifs.report.find_printf import parse_format
from ocifs.report.find_tests import PLAIN, TESTS, FindContext, true
from ocifs.report.listing import Listed, Show, shown_time, shown_with_target, size_or_device, unpainted
from ocifs.report.visit import Action, Test, Visit

_MAX_DEPTH = 100
"""How deep operators may be nested."""


class ExpressionError(ValueError):
    """An expression that cannot be parsed: a usage error."""


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
        prefix = path if path.endswith(b"/") else path + b"/"
        left_out = False
        for below, nid in rootfs.tree.walk(rootfs.lookup(path, follow=False), lambda: left_out):  # noqa: B023 - called in the loop
            visit = Visit(rootfs, path, prefix + below if below else path, below, nid)
            if visit.depth >= expression.least:
                try:
                    expression.test(visit)
                except _Quit:
                    yield from [visit] if visit.actions else []
                    return
                if visit.actions:
                    yield visit
            left_out = visit.pruned or visit.depth == expression.most


class _Quit(Exception):  # noqa: N818 - no error
    """Ends the search: the action -quit."""


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
    parser = _Parser(words, FindContext(rootfs, time.time_ns() if now is None else now))
    test = parser.sequence() if words else true
    if parser.words:
        raise ExpressionError("find: ')' closes nothing")
    if not parser.acts:
        test = _all([test, _act("print")])
    return Expression(test, parser.least, parser.most)


class _Parser:
    """The remaining words, the next one last, and the options found so far."""

    def __init__(self, words: Sequence[str], context: FindContext) -> None:
        self.words = list(words)[::-1]
        self.context = context
        self.acts = False
        self.least = 0
        self.most: int | None = None
        self._nested = 0

    def sequence(self) -> Test:
        """Parse alternatives joined by `,`: all are evaluated, the last one counts."""
        tests = self._joined(self._alternatives, {","})
        return tests[0] if len(tests) == 1 else lambda visit: [test(visit) for test in tests][-1]

    def _alternatives(self) -> Test:
        return _any(self._joined(self._conjunction, {"-o", "-or"}))

    def _conjunction(self) -> Test:
        tests = [self._term()]
        while self.words and self.words[-1] not in {"-o", "-or", ")", ","}:
            if self.words[-1] in {"-a", "-and"}:
                self.words.pop()
            tests.append(self._term())
        return _all(tests)

    def _joined(self, parse_one: Callable[[], Test], operators: set[str]) -> list[Test]:
        tests = [parse_one()]
        while self.words and self.words[-1] in operators:
            self.words.pop()
            tests.append(parse_one())
        return tests

    def _term(self) -> Test:
        word = self._next("a test")
        if word in {"!", "-not", "("}:
            return self._operand(word)
        if word in _ACTIONS:
            self.acts = True
            return _act(_ACTIONS[word])
        if word == "-quit":
            self.acts = True
            return _quit
        if word in PLAIN:
            return PLAIN[word](self.context)
        if word not in _WITH_ARGUMENT:
            raise _unknown(word)
        argument = self._next(f"what {word} takes")
        try:
            return self._with_argument(word, argument)
        except (ValueError, OverflowError, re.error) as error:
            if isinstance(error, OcifsError):
                raise
            raise ExpressionError(f"find: {word} {printable_path(argument)}: {error}") from None

    def _operand(self, operator: str) -> Test:
        """Parse what follows `!` or `(`."""
        self._nested += 1
        if self._nested > _MAX_DEPTH:
            raise ExpressionError(f"find: operators are nested more than {_MAX_DEPTH} deep")
        if operator == "(":
            test = self.sequence()
            if self._next("')'") != ")":
                raise ExpressionError("find: '(' is not closed")
        else:
            negated = self._term()
            test = lambda visit: not negated(visit)  # noqa: E731
        self._nested -= 1
        return test

    def _with_argument(self, word: str, argument: str) -> Test:
        """Return the test or action `word`. Raises ValueError, re.error."""
        if word == "-printf":
            self.acts = True
            return _act(parse_format(argument, self.context))
        if word in {"-maxdepth", "-mindepth"}:
            return self._depth(argument, least=word == "-mindepth")
        return TESTS[word](self.context, argument)

    def _next(self, what: str) -> str:
        if not self.words:
            raise ExpressionError(f"find: {what} is missing at the end")
        return self.words.pop()

    def _depth(self, argument: str, *, least: bool) -> Test:
        """Record a bound on the depth."""
        if not argument.isdecimal():
            raise ValueError("write a number")
        if least:
            self.least = int(argument)
        else:
            self.most = int(argument)
        return true


_WITH_ARGUMENT = {*TESTS, "-printf", "-maxdepth", "-mindepth"}

_NO_TIME = "an image has only modification times: use -mtime, -mmin, -newer or -newermt"
_MOUNT = "mount the image (`ocifs mount`) and use find(1)"
_LACKED = {
    **dict.fromkeys(
        ("-exec", "-execdir", "-ok", "-okdir"), f"pipe -print0 into `xargs -0 ocifs cat IMAGE`, or {_MOUNT}"
    ),
    "-delete": "an image is read-only: remove files in a new layer, or in a copy (`ocifs export`)",
    **dict.fromkeys(("-fprint", "-fprint0", "-fprintf", "-fls"), "redirect the output with > FILE"),
    **dict.fromkeys(("-depth", "-d"), "`sort -r` puts files before their directories"),
    **dict.fromkeys(("-follow", "-L", "-H"), f"symlinks are not followed: {_MOUNT}"),
    **dict.fromkeys(("-atime", "-amin", "-anewer", "-ctime", "-cmin", "-cnewer", "-used"), _NO_TIME),
    **dict.fromkeys(("-readable", "-writable", "-executable"), "use -perm, such as -perm /a+x"),
    "-fstype": "an image is one file system",
    "-context": "use -xattr security.selinux",
    "-daystart": "use -newermt with a date",
    "-files0-from": "name the paths before the expression",
}
"""What to use instead of the tests and actions of GNU find that ocifs lacks."""


def _unknown(word: str) -> ExpressionError:
    shown = printable_path(word)
    if word in _LACKED:
        return ExpressionError(f"find: {shown} is not supported: {_LACKED[word]}")
    if word.startswith("-newer"):
        return ExpressionError(f"find: {shown} is not supported: {_NO_TIME}")
    if word.startswith("--"):
        return ExpressionError(f"find: {shown} is not a test: options go before IMAGE")
    if not word.startswith("-"):
        return ExpressionError(f"find: {shown} is not a test: paths go before the expression")
    return ExpressionError(f"find: {shown} is not a test: see `ocifs find --help`")


def _act(action: Action) -> Test:
    def act(visit: Visit) -> bool:
        visit.actions.append(action)
        return True

    return act


def _quit(visit: Visit) -> bool:
    raise _Quit


def _all(tests: Sequence[Test]) -> Test:
    return tests[0] if len(tests) == 1 else lambda visit: all(test(visit) for test in tests)


def _any(tests: Sequence[Test]) -> Test:
    return tests[0] if len(tests) == 1 else lambda visit: any(test(visit) for test in tests)


_ACTIONS: dict[str, Action] = {"-print": "print", "-print0": "print0", "-ls": "ls"}
