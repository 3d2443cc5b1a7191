"""Search files for lines that match a pattern, like grep(1): on bytes, with detection of binary files.

Only a newline ends a line. Memory does not grow with files or lines: a line longer than `MAX_LINE` is searched in
pieces of that length. Files come in the order of the layers, so that each span is decoded once; the names of a
hard-linked file come one after the other.
"""

import fnmatch
import itertools
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from ocifs.image.contents import Part, read_files
from ocifs.image.rootfs import Rootfs
from ocifs.report.listing import named

MAX_LINE = 1 << 20
_BEGINNING = 1 << 15
"""Bytes at the start of a file that are checked for NUL, which marks it as binary."""
_HOLE = bytes(_BEGINNING)
"""The part of a hole that is searched: no pattern needs more zeros."""

# Constructs that may match a line alone but not inside a text: \A, \Z, lookaround, possessive quantifiers.
_NEEDS_LINES = re.compile(rb"\\[AZ]|\(\?(?!:|P)|[*+?}]\+")

Done = Callable[[int], None]


class Match(NamedTuple):
    """A matching line."""

    number: int
    """The line number, from 1."""
    line: bytes
    """Without the newline."""


class Searched(msgspec.Struct, frozen=True):
    """A file with its matches; consume `matches` before the next file."""

    path: bytes
    binary: bool
    matches: Iterator[Match]


class Pattern:
    """A compiled pattern."""

    def __init__(self, pattern: bytes, *, fixed: bool = False, ignore_case: bool = False, words: bool = False) -> None:
        """Compile.

        Args:
            pattern: A regular expression of Python, on bytes; several, on separate lines, are alternatives.
            fixed: Treat the pattern as text, not as a regular expression.
            ignore_case: Ignore the case of ASCII letters.
            words: Match whole words only.

        Raises:
            re.error: The pattern is malformed.
        """
        alternatives = [re.escape(line) if fixed else line for line in pattern.split(b"\n")]
        whole = b"|".join(b"(?:%b)" % line for line in alternatives) if len(alternatives) > 1 else alternatives[0]
        # A word at the end of a line has nothing behind it, so a match in the text is also one in the line.
        self._by_line = not fixed and bool(_NEEDS_LINES.search(whole))
        if words:
            whole = rb"(?<!\w)(?:%b)(?!\w)" % whole
        self._regex = re.compile(whole, re.MULTILINE | (re.IGNORECASE if ignore_case else 0))

    def matches(self, lines: bytes, number: int) -> Iterator[Match]:
        """Yield the matching lines of `lines`, which holds whole lines; the first one has that number."""
        search = self._regex.search
        at = 0
        counted = 0
        while at < len(lines):
            begin = at
            if not self._by_line:
                # No line before the first match in the whole text matches alone.
                found = search(lines, at)
                if found is None:
                    return
                begin = lines.rfind(b"\n", at, min(found.start(), len(lines) - 1)) + 1 or at
            end = lines.find(b"\n", begin)
            end = len(lines) if end < 0 else end
            line = lines[begin:end]
            if search(line):
                number += lines.count(b"\n", counted, begin)
                counted = begin
                yield Match(number, line)
            at = end + 1


def grep(
    rootfs: Rootfs,
    paths: Sequence[bytes],
    pattern: Pattern,
    include: Sequence[str] = (),
    done: Done = lambda size: None,
) -> Iterator[Searched]:
    """Yield each regular file at and below `paths` with its matching lines.

    Symlinks are followed at `paths` only, like `grep -r`. A name must match one of the globs in `include`, except a
    file that `paths` names itself. `done` receives the number of bytes read.

    Raises:
        NotFoundError: One of the paths does not exist.
        InvalidImageError: A span does not verify.
        OSError: A blob cannot be read.
    """
    names: dict[int, list[bytes]] = {}
    for path, nid in _files(rootfs, paths, include):
        names.setdefault(nid, []).append(path)
    for own in names.values():
        own.reverse()
    for nid, parts in read_files(rootfs, (nid for nid, own in names.items() for _ in own)):
        given = _bytes(parts, done)
        first = next(given, b"")
        while len(first) < _BEGINNING and (more := next(given, b"")):
            first += more
        yield Searched(names[nid].pop(), b"\0" in first[:_BEGINNING], _search(pattern, first, given))


def _files(rootfs: Rootfs, paths: Sequence[bytes], include: Sequence[str]) -> Iterator[tuple[bytes, int]]:
    globs = [re.compile(fnmatch.translate(glob)).match for glob in include]
    for path in paths:
        prefix = path if path.endswith(b"/") else path + b"/"
        for below, nid in rootfs.tree.walk(rootfs.lookup(path)):
            if not stat.S_ISREG(rootfs.tree.inode(nid).mode):
                continue
            name = os.fsdecode(below.rpartition(b"/")[2])
            if not below or not globs or any(fits(name) for fits in globs):
                yield prefix + below if below else path, nid


def _bytes(parts: Iterable[Part], done: Done) -> Iterator[bytes]:
    for part in parts:
        if isinstance(part, int):
            yield _HOLE[:part]
        else:
            done(len(part))
            yield bytes(part)


def _search(pattern: Pattern, first: bytes, others: Iterable[bytes]) -> Iterator[Match]:
    number = 1
    begun = bytearray()
    """The start of a line, or of a piece of a long line."""
    for data in _pieces(itertools.chain([first], others)):
        cut = data.find(b"\n") + 1
        begun += data[:cut] or data
        while len(begun) - begun.endswith(b"\n") > MAX_LINE:
            yield from pattern.matches(bytes(begun[:MAX_LINE]), number)
            del begun[:MAX_LINE]
        if cut:
            last = data.rfind(b"\n") + 1
            lines = bytes(begun) + data[cut:last]
            yield from pattern.matches(lines, number)
            number += lines.count(b"\n")
            begun[:] = data[last:]
    if begun:
        yield from pattern.matches(bytes(begun), number)


def _pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in pieces of at most `MAX_LINE`."""
    return (part[at : at + MAX_LINE] for part in parts for at in range(0, len(part), MAX_LINE))


def to_json(path: bytes, match: Match | None = None, **more: int | bool) -> bytes:
    """Return a JSON object on one line: a file, and a matching line or another fact about it."""
    line = {} if match is None else {"line_number": match.number} | named("line", match.line)
    return msgspec.json.encode(named("path", path) | line | more)
