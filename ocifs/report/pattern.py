"""Patterns of grep: which lines match, and which parts of them. Everything is bytes, as in the C locale."""

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from ocifs.report.posix_regex import to_python, with_posix_parts

# Constructs that may match a line alone but not inside a text: \A, \Z, lookaround, possessive quantifiers.
_NEEDS_LINES = re.compile(rb"\\[AZ]|\(\?(?!:|P)|[*+?}]\+")

# What `\<` becomes needs no separate lines, although it looks ahead: no word spans lines.
_AT_WORD = re.compile(rb"\(\?:\\b\(\?<?=\\w\)\)")

Syntax = Literal["python", "basic", "extended", "fixed"]


class Matching(NamedTuple):
    """How a pattern matches."""

    syntax: Syntax = "python"
    """Python's with the classes of POSIX; basic or extended as in GNU grep; or text."""
    ignore_case: bool = False
    """Ignore the case of ASCII letters."""
    words: bool = False
    """Match whole words only."""
    whole_lines: bool = False
    """Match whole lines only."""
    null: bool = False
    """Lines end with NUL instead of a newline."""


_AS_IT_IS = Matching()


class Pattern:
    """A compiled pattern."""

    def __init__(self, pattern: bytes | None, how: Matching = _AS_IT_IS) -> None:
        """Compile a pattern; several, on separate lines, are alternatives; None matches nothing.

        Raises:
            re.error: The pattern is malformed.
        """
        self.end = b"\0" if how.null else b"\n"
        fixed = how.syntax == "fixed"
        whole = b"(?!)" if pattern is None else _translated(pattern.split(b"\n"), how)
        # A word at the end of a line has nothing behind it, so a match in the text is also one in the line.
        self._by_line = how.null or (not fixed and bool(_NEEDS_LINES.search(_AT_WORD.sub(b"", whole))))
        if how.words:
            whole = rb"(?<!\w)(?:%b)(?!\w)" % whole
        if how.whole_lines:
            whole = (rb"\A(?:%b)\Z" if how.null else b"^(?:%b)$") % whole
        flags = re.DOTALL if how.null else re.MULTILINE
        self._regex = re.compile(whole, flags | (re.IGNORECASE if how.ignore_case else 0))

    def spans(self, lines: bytes) -> Iterator[tuple[int, int]]:
        """Yield (begin, end) of the matching lines of `lines`, which holds whole lines."""
        search = self._regex.search
        at = 0
        while at < len(lines):
            begin = at
            if not self._by_line:
                # No line before the first match in the whole text matches alone.
                found = search(lines, at)
                if found is None:
                    return
                begin = lines.rfind(b"\n", at, min(found.start(), len(lines) - 1)) + 1 or at
            end = lines.find(self.end, begin)
            end = len(lines) if end < 0 else end
            if search(lines[begin:end]):
                yield begin, end
            at = end + 1

    def parts(self, line: bytes) -> Iterator[tuple[int, int]]:
        """Yield (begin, end) of the non-empty matching parts of a line."""
        return (match.span() for match in self._regex.finditer(line) if match.end() > match.start())


def _translated(patterns: Sequence[bytes], how: Matching) -> bytes:
    """Return an expression for Python that matches what one of the patterns does."""
    if how.syntax == "fixed":
        escaped: list[bytes] = [re.escape(pattern) for pattern in patterns]
        escaped.sort(key=len, reverse=True)  # of several, grep takes the longest
        return b"|".join(escaped)
    if how.syntax == "python":
        alternatives = list(map(with_posix_parts, patterns))
    else:
        alternatives = []
        groups = 0
        for pattern in patterns:  # a reference in each keeps its group, whatever number that gets
            regex, own = to_python(pattern, extended=how.syntax == "extended", groups=groups, whole=how.null)
            groups += own
            alternatives.append(regex)
    return b"|".join(b"(?:%b)" % each for each in alternatives) if len(alternatives) > 1 else alternatives[0]
