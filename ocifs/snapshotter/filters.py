r"""Filters of containerd, as its clients send them to List: `kind==active,labels."containerd.io/gc.root"`.

    filter   = selector *("," selector)           all must match; several filters match if one of them does
    selector = path [operator value]              without an operator: the field exists
    path     = field *("." field)
    field    = 1*(letter / digit / "_") / quoted
    operator = "==" / "!=" / "~="                 the last one searches for a regular expression, of Python here
    value    = quoted / 1*(character other than a comma or white space)
    quoted   = a string of Go in double quotes; after "~=" also between slashes or bars

White space may precede each token. A bare value begins with no character that begins another token, and may contain
dots and colons. An empty filter matches everything. Source: the package filters of containerd.
"""

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from ocifs.snapshotter.status import SnapshotError

Path = tuple[str, ...]
Field = Callable[[Path], str | None]
"""Returns the value of a field; None: it does not exist."""

_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[A-Za-z0-9_]+")
_OPERATOR = re.compile(r"[=!~]+")
_QUOTED = re.compile(r'(["/|])((?:\\.|(?!\1)[^\\\n])*)\1')
_VALUE = re.compile(r'(?!["/|=!~.,])[^\s,]+')
_ESCAPE = re.compile(
    r"""\\(?:([abfnrtv\\])|(["/|])|([0-7]{3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))""", re.DOTALL
)
_CONTROL = dict(zip("abfnrtv\\", "\a\b\f\n\r\t\v\\", strict=True))
_REPLACEMENT = "\ufffd".encode()
_MAX = 64 << 10
"""Most characters of a filter; labels have at most 4096 bytes."""


class Selector(NamedTuple):
    """A condition on one field."""

    path: Path
    operator: Literal["", "==", "!=", "~="] = ""
    """Empty: the field exists."""
    value: str = ""
    expression: re.Pattern[str] | None = None
    """The value, compiled for `~=`."""

    def matches(self, field: Field) -> bool:
        """Whether the condition holds. A missing field differs from every value, and is searched as an empty one."""
        found = field(self.path)
        match self.operator:
            case "==":
                return found == self.value
            case "!=":
                return (found or "") != self.value
            case "~=":
                return self.expression is not None and self.expression.search(found or "") is not None
            case _:
                return found is not None


def parse_filters(filters: Sequence[str]) -> Callable[[Field], bool]:
    """Return a function that returns whether any of the filters matches, given the fields of an object.

    Raises:
        SnapshotError: A filter is malformed.
    """
    parsed = [_Parser(each).filter() for each in filters]
    return lambda field: not parsed or any(all(each.matches(field) for each in selectors) for selectors in parsed)


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0

    def filter(self) -> list[Selector]:
        if len(self._text) > _MAX or "\0" in self._text:
            raise self._error(f"it has a null character, or more than {_MAX} characters")
        if not self._text:
            return []
        selectors = [self._selector()]
        while self._place < len(self._text):
            if self._text[self._place] != ",":
                raise self._error("expected a comma")
            self._place += 1
            selectors.append(self._selector())
        return selectors

    def _selector(self) -> Selector:
        path = [self._field()]
        while self._text.startswith(".", self._place):
            self._place += 1
            path.append(self._field())
        if self._place == len(self._text) or self._text[self._place] == ",":
            return Selector((*path,))
        match self._token(_OPERATOR):
            case "==" | "!=" as operator:
                return Selector((*path,), operator, self._value('"'))
            case "~=":
                value = self._value('"/|')
                return Selector((*path,), "~=", value, self._compiled(value))
        raise self._error("expected an operator (==, != or ~=)")

    def _field(self) -> str:
        name = self._token(_NAME)
        return self._quoted('"') if name is None else name

    def _value(self, quotes: str) -> str:
        value = self._token(_VALUE)
        return self._quoted(quotes) if value is None else value

    def _quoted(self, quotes: str) -> str:
        quoted = self._token(_QUOTED)
        if quoted is None or quoted[0] not in quotes:
            raise self._error("expected a field or a value")
        return self._unquoted(quoted[1:-1], quoted[0])

    def _token(self, pattern: re.Pattern[str]) -> str | None:
        """Return the token at this place, and continue behind it; None if it is another one."""
        space = _SPACE.match(self._text, self._place)
        found = pattern.match(self._text, space.end() if space else self._place)
        if found is None:
            return None
        self._place = found.end()
        return found[0]

    def _unquoted(self, text: str, quote: str) -> str:
        """Return the value of a quoted string. Numeric escapes are bytes, as in Go, except those of `u` and `U`."""
        parts: list[bytes] = []
        end = 0
        for escape in _ESCAPE.finditer(text):
            parts += [text[end : escape.start()].encode(errors="replace"), self._escaped(escape, quote)]
            end = escape.end()
        parts.append(text[end:].encode(errors="replace"))
        return b"".join(parts).decode(errors="surrogateescape")

    def _escaped(self, escape: re.Match[str], quote: str) -> bytes:
        control, quoted, octal, byte, short, long, other = escape.groups()
        if control:
            return _CONTROL[control].encode()
        if quoted == quote:
            return quote.encode()
        if octal and int(octal, 8) < 256:
            return bytes([int(octal, 8)])
        if byte:
            return bytes([int(byte, 16)])
        code = int(short or long or "110000", 16)
        if other or quoted or octal or code > 0x10FFFF:
            raise self._error("malformed escape in a quoted string")
        return _REPLACEMENT if 0xD800 <= code < 0xE000 else chr(code).encode()

    def _compiled(self, value: str) -> re.Pattern[str]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about sets whose meaning may change in later Pythons
                return re.compile(value)
        except (re.error, OverflowError, RecursionError) as error:
            raise self._error(f"malformed regular expression: {error}") from None

    def _error(self, why: str) -> SnapshotError:
        shown = ascii(self._text[:200])[1:-1]
        return SnapshotError("INVALID_ARGUMENT", f"filter {shown}: {why} at position {self._place}")
