"""Lines of files that match a pattern, in the manner of grep(1): on bytes, and aware of files that are no text.

A line ends with a newline only. Memory does not grow with files or lines: one that is longer than `MAX_LINE` is
searched in pieces of that length. Files come in the order in which the layers hold them, so that each span is decoded
once; the names of a file that has several come one after the other.
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
"""Bytes that are looked at for a NUL, which makes a file binary."""
_HOLE = bytes(_BEGINNING)
"""What is searched of a hole, at most: nobody looks for more zeros than that."""

# What may fail in a text but not in a line of it alone: \A and \Z, what looks around, what never gives back.
_NEEDS_LINES = re.compile(rb"\\[AZ]|\(\?(?!:|P)|[*+?}]\+")

Done = Callable[[int], None]


class Match(NamedTuple):
    """A line that matches."""

    number: int
    """From 1."""
    line: bytes
    """Without its end."""


class Searched(msgspec.Struct, frozen=True):
    """A file, and what is found in it; `matches` must be taken before the next file is."""

    path: bytes
    binary: bool
    matches: Iterator[Match]


class Pattern:
    """What to look for."""

    def __init__(self, pattern: bytes, *, fixed: bool = False, ignore_case: bool = False, words: bool = False) -> None:
        """Compile.

        Args:
            pattern: A regular expression of Python, on bytes; several on lines of their own mean any of them.
            fixed: The pattern is text, not a regular expression.
            ignore_case: Of the letters of ASCII.
            words: Whole words only.

        Raises:
            re.error: It is not one.
        """
        alternatives = [re.escape(line) if fixed else line for line in pattern.split(b"\n")]
        whole = b"|".join(b"(?:%b)" % line for line in alternatives) if len(alternatives) > 1 else alternatives[0]
        # A word at the end of a line has nothing behind it, so this is true of the line if it is of the text.
        self._by_line = not fixed and bool(_NEEDS_LINES.search(whole))
        if words:
            whole = rb"(?<!\w)(?:%b)(?!\w)" % whole
        self._regex = re.compile(whole, re.MULTILINE | (re.IGNORECASE if ignore_case else 0))

    def matches(self, lines: bytes, number: int) -> Iterator[Match]:
        """Give the lines that match among whole `lines`, the first of which has that number."""
        search = self._regex.search
        at = 0
        counted = 0
        while at < len(lines):
            begin = at
            if not self._by_line:
                # No line before the first match in all of them matches alone.
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
    """Give each regular file at and below `paths` with the lines in it that match.

    Symlinks are followed at `paths` only, as by `grep -r`. `include` are globs of names, of which one must fit; what is
    itself at one of `paths` is searched whatever its name. `done` is told the bytes that are read.

    Raises:
        NotFoundError: There is nothing at one of them.
        InvalidImageError: Bytes cannot be proven to be those that were indexed.
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
    for data in itertools.chain([first], others):
        cut = data.rfind(b"\n") + 1
        if cut:
            lines = bytes(begun) + data[:cut]
            begun.clear()
            yield from pattern.matches(lines, number)
            number += lines.count(b"\n")
        begun += data[cut:]
        while len(begun) > MAX_LINE:
            yield from pattern.matches(bytes(begun[:MAX_LINE]), number)
            del begun[:MAX_LINE]
    if begun:
        yield from pattern.matches(bytes(begun), number)


def to_json(path: bytes, match: Match | None = None, **more: int | bool) -> bytes:
    """Return a JSON object on one line: a file, and a line in it or what else is said of it."""
    line = {} if match is None else {"line_number": match.number} | named("line", match.line)
    return msgspec.json.encode(named("path", path) | line | more)
