"""Translate regular expressions of POSIX, with the extensions of GNU grep, to Python's, on bytes.

Basic (BRE) and extended (ERE) expressions differ only in which characters need a backslash: one parser reads both. The
result matches the same lines. An alternation takes its first matching alternative, not the longest one, so the matched
part of a line may be shorter. Source: POSIX.1-2017, XBD chapter 9; regex(7); the manual of GNU grep, chapter 3.
"""

import re

_CLASSES = {
    b"alnum": rb"0-9A-Za-z",
    b"alpha": rb"A-Za-z",
    b"blank": rb" \t",
    b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": rb"0-9",
    b"graph": rb"!-~",
    b"lower": rb"a-z",
    b"print": rb" -~",
    b"punct": rb"!-/:-@\[-`{-~",
    b"space": rb"\s",
    b"upper": rb"A-Z",
    b"xdigit": rb"0-9A-Fa-f",
}
_GNU = {b"<": rb"(?:\b(?=\w))", b">": rb"(?:\b(?<=\w))", b"`": rb"\A", b"'": rb"\Z"} | {
    letter: b"\\" + letter for letter in (b"w", b"W", b"s", b"S", b"b", b"B")
}
_EXTRAS = re.compile(rb"\\(.)|\[:([a-z]+):\]", re.DOTALL)
_LINE = {b"^": b"^", b"$": b"$"}
_TEXT = {b"^": rb"\A", b"$": rb"\Z"}
_ASSERTIONS = {b"^", b"$", rb"\b", rb"\B", rb"\A", rb"\Z"}
_BOUNDS = re.compile(rb"(\d{0,5})(,?)(\d{0,5})")
_MOST = 32767
"""RE_DUP_MAX of GNU."""


def to_python(pattern: bytes, *, extended: bool, groups: int = 0, whole: bool = False) -> tuple[bytes, int]:
    """Translate one pattern without a newline.

    Args:
        pattern: The expression.
        extended: Whether it is an ERE instead of a BRE.
        groups: The number of groups before it, if the result becomes a part of a larger expression.
        whole: Whether anchors match at the ends of the text only, not at the ends of its lines.

    Returns:
        The expression for Python, and the number of its groups.

    Raises:
        re.error: The pattern is malformed.
    """
    parser = _Parser(pattern, groups, extended=extended, anchors=_TEXT if whole else _LINE)
    return parser.translate(), parser.groups - groups


class _Parser:
    """The position in a pattern, and what it is translated to so far."""

    def __init__(self, pattern: bytes, groups: int, *, extended: bool, anchors: dict[bytes, bytes]) -> None:
        self.pattern = pattern
        self.extended = extended
        self.anchors = anchors
        self.first = self.groups = groups
        self.at = 0
        self.out: list[bytes] = []
        self.opened: list[int] = []
        """Positions in `out` of the groups not closed yet."""
        self.closed: set[int] = set()
        self.atom: int | None = None
        """Position in `out` of what a quantifier would repeat; None at the start of an alternative."""
        self.repeated = False

    def translate(self) -> bytes:
        while self.at < len(self.pattern):
            self._step()
        if self.opened:
            raise re.error(r"( or \( is not closed")
        return b"".join(self.out)

    def _step(self) -> None:
        char, escaped = self._next()
        operator = self._operator(char, escaped)
        if operator == b"(":
            self.groups += 1
            self.opened.append(len(self.out))
            self.out.append(b"(")
            self.atom = None
        elif operator == b")":
            self._close()
        elif operator == b"|":
            self.out.append(b"|")
            self.atom = None
        elif operator and operator in b"*+?{":
            self._quantify(operator)
        elif operator and operator in b"^$":
            self.out.append(self.anchors[operator])
            self.atom = len(self.out) - 1 if self.extended else None
            self.repeated = False
        elif char == b"[" and not escaped:
            self._add(self._bracket())
        elif char == b"." and not escaped:
            self._add(b".")
        elif escaped and char.isdigit() and char != b"0":
            self._add(self._reference(int(char)))
        else:
            self._add(_GNU.get(char, re.escape(char)) if escaped else re.escape(char))

    def _next(self) -> tuple[bytes, bool]:
        """Consume a character; return it, and whether a backslash precedes it."""
        char = self.pattern[self.at : self.at + 1]
        self.at += 1
        if char != b"\\":
            return char, False
        if self.at == len(self.pattern):
            raise re.error("a backslash at the end")
        self.at += 1
        return self.pattern[self.at - 1 : self.at], True

    def _operator(self, char: bytes, escaped: bool) -> bytes:
        """Return the operator that a character is, or nothing."""
        rest = self.pattern[self.at :]
        begins = self.atom is None and not self.extended  # a quantifier there is literal in a BRE
        if char == b"*":
            literal = escaped or begins
        elif char == b"^":
            literal = escaped or not (self.extended or (self.atom is None and self.out[-1:] != [self.anchors[b"^"]]))
        elif char == b"$":
            literal = escaped or not (self.extended or rest[:2] in {b"", rb"\)", rb"\|"})
        elif char in {b"(", b"|"}:
            literal = escaped == self.extended
        elif char in {b"+", b"?"}:
            literal = escaped == self.extended or begins
        elif char == b")":
            literal = escaped == self.extended or (self.extended and not self.opened)
        elif char == b"{":
            literal = escaped == self.extended or begins or (self.extended and self._interval(rest) is None)
        else:
            literal = True
        return b"" if literal else char

    def _add(self, atom: bytes) -> None:
        self.atom = len(self.out)
        self.repeated = False
        self.out.append(atom)

    def _close(self) -> None:
        if not self.opened:
            raise re.error(r"\) closes nothing")
        self.atom = self.opened.pop()
        self.repeated = False
        self.out.append(b")")
        self.closed.add(self.first + sum(piece == b"(" for piece in self.out[: self.atom + 1]))

    def _quantify(self, operator: bytes) -> None:
        if operator == b"{":
            operator = self._bounds()
        if self.atom is None:  # GNU ignores it
            return
        # For Python, a second quantifier means something else, and it refuses to repeat an assertion.
        if self.repeated or self.out[self.atom] in _ASSERTIONS:
            self.out[self.atom :] = [b"(?:", *self.out[self.atom :], b")"]
        self.out.append(operator)
        self.repeated = True

    def _interval(self, rest: bytes) -> re.Match[bytes] | None:
        """Match the bounds of a repetition, up to its closing brace."""
        match = _BOUNDS.match(rest)
        end = b"}" if self.extended else rb"\}"
        return match if match and (match[1] or match[2]) and rest.startswith(end, match.end()) else None

    def _bounds(self) -> bytes:
        match = self._interval(self.pattern[self.at :])
        if match is None:
            raise re.error(r"the bounds behind \{ are malformed")
        least = int(match[1] or 0)
        most = int(match[3]) if match[3] else None if match[2] else least
        if max(least, most or 0) > _MOST or (most is not None and most < least):
            raise re.error(f"repetitions must be ordered, and at most {_MOST}")
        self.at += match.end() + (1 if self.extended else 2)
        return b"{%d,%b}" % (least, b"" if most is None else b"%d" % most)

    def _reference(self, number: int) -> bytes:
        if self.first + number not in self.closed:
            raise re.error(f"\\{number} refers to no group before it")
        return rb"(?:\%d)" % (self.first + number)

    def _bracket(self) -> bytes:
        """Consume a bracket expression, whose opening bracket is consumed; return a set for Python."""
        negated = self.pattern.startswith(b"^", self.at)
        self.at += negated
        items: list[bytes] = []
        begin = self.at
        while (char := self.pattern[self.at : self.at + 1]) != b"]" or self.at == begin:
            if not char:
                raise re.error("[ is not closed")
            first = self._element()
            if len(first) == 1 and self._begins_range():
                self.at += 1
                last = self._element()
                if len(last) != 1 or last < first:
                    raise re.error("a range in [ ] ends before it begins")
                items.append(_hex(first) + b"-" + _hex(last))
            else:
                items.append(_hex(first) if len(first) == 1 else _CLASSES[first])
        self.at += 1
        return b"[" + b"^" * negated + b"".join(items) + b"]"

    def _begins_range(self) -> bool:
        return self.pattern.startswith(b"-", self.at) and self.pattern[self.at + 1 : self.at + 2] not in {b"", b"]"}

    def _element(self) -> bytes:
        """Consume a member of a bracket expression; return a byte, or the name of a class."""
        char = self.pattern[self.at : self.at + 1]
        kind = self.pattern[self.at + 1 : self.at + 2]
        if char != b"[" or kind not in {b":", b".", b"="}:
            self.at += 1
            return char
        end = self.pattern.find(kind + b"]", self.at + 2)
        name = self.pattern[self.at + 2 : end] if end >= 0 else b""
        if kind == b":" and name not in _CLASSES:
            raise re.error("[: :] takes " + " ".join(map(bytes.decode, _CLASSES)))
        if kind != b":" and len(name) != 1:
            raise re.error("[. .] and [= =] take one character")
        self.at = end + 2
        return name


def with_posix_parts(pattern: bytes) -> bytes:
    """Translate what GNU grep has and Python lacks, classes such as [:alpha:] and the word anchors, to Python."""
    return _EXTRAS.sub(
        lambda match: _CLASSES.get(match[2], match[0]) if match[2] else _GNU.get(match[1], match[0]), pattern
    )


def _hex(byte: bytes) -> bytes:
    return b"\\x%02x" % ord(byte)
