"""Select lines of a file that comes in parts, with lines before and after them.

Memory does not grow with the file or its lines: a line longer than `MAX_LINE` counts as several of that length, which
share its number.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ocifs.report.pattern import Pattern

MAX_LINE = 1 << 20
_MAX_CONTEXT = 16 << 20
"""Bytes of lines that are kept as possible context."""


class Match(NamedTuple):
    """A selected line."""

    number: int
    """The line number, from 1."""
    line: bytes
    """Without the newline."""


class Context(NamedTuple):
    """A line before or after a selected one."""

    number: int
    line: bytes


FoundLine = Match | Context


class Selection(NamedTuple):
    """Which lines to select, and how many lines around them to add."""

    invert: bool = False
    """Select the lines that do not match."""
    before: int = 0
    """Lines of context before a selected line; those of more than 16 MiB in total are left out."""
    after: int = 0
    most: int | None = None
    """The number of selected lines of a file after which to stop."""


EVERY = Selection()


def select_lines(
    pattern: Pattern, first: bytes, others: Iterable[bytes], selection: Selection = EVERY
) -> Iterator[FoundLine]:
    """Yield the selected lines of a file, which comes in parts, with their context."""
    selecting = _Selecting(pattern, selection)
    number = 1
    for lines in _whole_lines(pattern.end, itertools.chain([first], others)):
        if selecting.is_done:
            return
        yield from selecting.lines(lines, number)
        number += lines.count(pattern.end)


def _whole_lines(newline: bytes, parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in pieces that end where a line does, or where a long line is cut."""
    begun = bytearray()
    """The start of a line, or of a piece of a long line."""
    for data in _pieces(parts):
        cut = data.find(newline) + 1
        begun += data[:cut] or data
        while len(begun) - begun.endswith(newline) > MAX_LINE:
            yield bytes(begun[:MAX_LINE])
            del begun[:MAX_LINE]
        if cut:
            last = data.rfind(newline) + 1
            yield bytes(begun) + data[cut:last]
            begun[:] = data[last:]
    if begun:
        yield bytes(begun)


class _Selecting:
    """Selects lines of a file, piece by piece, and keeps the lines that may become context."""

    def __init__(self, pattern: Pattern, selection: Selection) -> None:
        self._pattern = pattern
        self._selection = selection
        self._left = selection.most
        self._after = 0
        """Lines of context still to yield."""
        self._before: deque[Context] = deque(maxlen=selection.before)
        self._held = 0
        """Bytes in `_before`."""

    @property
    def is_done(self) -> bool:
        """Whether no further line will be yielded."""
        return self._left == 0 and not self._after

    def lines(self, lines: bytes, number: int) -> Iterator[FoundLine]:
        """Yield the selected lines of a piece of the file, and their context; its first line has that number."""
        with_context = self._selection.before or self._selection.after
        at = 0
        for begin, end in self._selected(lines):
            if self._left == 0:
                break
            if with_context:
                yield from self._between(lines, at, begin, number)
                yield from self._before
                self._before.clear()
                self._held = 0
            number += lines.count(self._pattern.end, at, begin)
            yield Match(number, lines[begin:end])
            self._after = self._selection.after
            self._left = None if self._left is None else self._left - 1
            at = min(end + 1, len(lines))
            number += 1
        if with_context:
            yield from self._between(lines, at, len(lines), number)

    def _selected(self, lines: bytes) -> Iterator[tuple[int, int]]:
        spans = self._pattern.spans(lines)
        return _others(lines, spans, self._pattern.end) if self._selection.invert else spans

    def _between(self, lines: bytes, at: int, end: int, number: int) -> Iterator[Context]:
        """Yield the context after the last selected line; keep what may become context before the next one."""
        while at < end and self._after:
            stop = lines.find(self._pattern.end, at, end)
            stop = end if stop < 0 else stop
            yield Context(number, lines[at:stop])
            self._after -= 1
            number += 1
            at = stop + 1
        if at < end and self._selection.before:
            rest = lines[at:end].removesuffix(self._pattern.end).split(self._pattern.end)
            kept = rest[-self._selection.before :]
            for place, line in enumerate(kept, number + len(rest) - len(kept)):
                self._keep(Context(place, line))

    def _keep(self, line: Context) -> None:
        if len(self._before) == self._selection.before:
            self._held -= len(self._before.popleft().line)
        self._before.append(line)
        self._held += len(line.line)
        while self._held > _MAX_CONTEXT:
            self._held -= len(self._before.popleft().line)


def _others(lines: bytes, spans: Iterable[tuple[int, int]], newline: bytes) -> Iterator[tuple[int, int]]:
    """Yield (begin, end) of the lines that are not in `spans`."""
    at = 0
    for begin, end in itertools.chain(spans, [(len(lines), len(lines))]):
        while at < begin:
            stop = lines.find(newline, at, begin)
            stop = begin if stop < 0 else stop
            yield at, stop
            at = stop + 1
        at = end + 1


def _pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in pieces of at most `MAX_LINE`."""
    return (part[at : at + MAX_LINE] for part in parts for at in range(0, len(part), MAX_LINE))
