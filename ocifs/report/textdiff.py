"""Unified diffs of two texts, like `diff -u`, which may ignore white space, case and blank lines."""

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

MAX_SIZE = 1 << 20
"""Size limit, in bytes, for a comparison by line; its cost grows faster than the size."""

_SPACES = re.compile(rb"[ \t\n\v\f\r]+")
_Operation = tuple[str, int, int, int, int]


class Comparison(NamedTuple):
    """What to ignore in lines, and how many equal lines to show around differing ones."""

    context: int = 3
    space: Literal["exact", "amount", "all"] = "exact"
    """`amount`: runs of white space are equal, and none ends a line; `all`: there is no white space."""
    ignore_case: bool = False
    """Ignore the case of ASCII letters."""
    ignore_blank: bool = False
    """Ignore lines without characters."""
    ignore_cr: bool = False
    """Ignore a carriage return at the end of a line."""

    @property
    def ignores(self) -> bool:
        """Whether different texts can be equal."""
        return self._replace(context=0) != Comparison(context=0)

    def key(self, line: bytes) -> bytes:
        """Return what is compared of a line."""
        if self.space == "all":
            line = _SPACES.sub(b"", line)
        elif self.space == "amount":
            line = _SPACES.sub(b" ", line).rstrip(b" ")
        elif self.ignore_cr:
            line = re.sub(rb"\r(?=\n?\Z)", b"", line)
        return line.lower() if self.ignore_case else line


_EXACT = Comparison()


def is_text(data: bytes) -> bool:
    """Return whether the data contain no NUL, which is the rule of diff(1)."""
    return b"\0" not in data


def equal_texts(before: bytes, after: bytes, how: Comparison) -> bool:
    """Return whether two texts differ only in what is ignored."""
    texts = ([how.key(line) for line in _lines(text) if not _is_ignored(line, how)] for text in (before, after))
    return next(texts) == next(texts)


def unified_diff(before: bytes, after: bytes, names: tuple[bytes, bytes], how: Comparison = _EXACT) -> Iterator[bytes]:
    """Yield the lines, without newlines, of a diff of two texts called `names`; nothing if they are equal.

    Only a newline ends a line. A missing final newline is reported like diff(1) does. Lines that are equal but for what
    is ignored are those of `before`.
    """
    old, new = _lines(before), _lines(after)
    # Ignored lines are not anchors. One that is not in the other text makes no difference, and is still shown near one.
    ignored = (lambda key: not key.strip(b"\n")) if how.ignore_blank else None
    matcher = difflib.SequenceMatcher(ignored, [how.key(line) for line in old], [how.key(line) for line in new])
    begun = False
    for group in matcher.get_grouped_opcodes(how.context):
        if not any(_differs(operation, old, new, how) for operation in group):
            continue
        if not begun:
            yield b"--- " + names[0]
            yield b"+++ " + names[1]
            begun = True
        yield b"@@ -%b +%b @@" % (_range(group[0][1], group[-1][2]), _range(group[0][3], group[-1][4]))
        for kind, left, left_end, right, right_end in group:
            if kind == "equal":
                yield from _marked(b" ", old[left:left_end])
            else:
                yield from _marked(b"-", old[left:left_end])
                yield from _marked(b"+", new[right:right_end])


def _differs(operation: _Operation, old: Sequence[bytes], new: Sequence[bytes], how: Comparison) -> bool:
    kind, left, left_end, right, right_end = operation
    changed = [*old[left:left_end], *new[right:right_end]]
    return kind != "equal" and not all(_is_ignored(line, how) for line in changed)


def _is_ignored(line: bytes, how: Comparison) -> bool:
    return how.ignore_blank and not how.key(line).strip(b"\n")


def _range(begin: int, end: int) -> bytes:
    """Return a range of lines as in a hunk: an empty one follows the line that it names."""
    length = end - begin
    if length == 1:
        return b"%d" % (begin + 1)
    return b"%d,%d" % (begin + 1 if length else begin, length)


def _marked(mark: bytes, lines: Sequence[bytes]) -> Iterator[bytes]:
    for line in lines:
        yield mark + line.removesuffix(b"\n")
        if not line.endswith(b"\n"):
            yield b"\\ No newline at end of file"


def _lines(text: bytes) -> list[bytes]:
    lines = [line + b"\n" for line in text.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]
