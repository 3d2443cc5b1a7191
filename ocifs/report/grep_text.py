"""The output of grep: records with their terminators, in the format of grep(1) or as JSON."""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from ocifs.report.grep import Searched, to_json
from ocifs.report.listing import Show
from ocifs.report.pattern import Pattern
from ocifs.report.selected_lines import Context, FoundLine

Wanted = Literal["lines", "counts", "names", "names without"]

_COLOURS = {"ms": "01;31", "fn": "35", "ln": "32", "se": "36"}
_CODE = re.compile(r"[\d;]*")


class GrepFormat(NamedTuple):
    """What to print, and how."""

    wanted: Wanted = "lines"
    named: bool = True
    """Whether records begin with the name of the file."""
    numbers: bool = False
    parts: bool = False
    """Print the matching parts of lines only."""
    invert: bool = False
    """Selected lines are those that do not match."""
    text: bool = False
    """Print lines of binary files."""
    skip_binary: bool = False
    separator: bytes | None = None
    """What to print between groups of lines; None: nothing."""
    null: bool = False
    """Records end with NUL."""
    null_names: bool = False
    """A NUL follows each name, instead of what else follows it."""
    as_json: bool = False


class Printed:
    """Turns files into records."""

    def __init__(
        self,
        pattern: Pattern,
        format_: GrepFormat,
        show: Show,
        show_line: Show,
        colours: dict[str, bytes] | None = None,
    ) -> None:
        self._pattern = pattern
        self._format = format_
        self._show = show
        self._show_line = show_line
        self._colours = colours or {}
        self._end = b"\0" if format_.null else b"\n"
        self._last: tuple[bytes, int] | None = None
        """File and number of the last printed line."""
        self.any = False
        """Whether a line of any file was selected."""

    def records(self, file: Searched) -> Iterator[bytes]:
        """Yield the records of a file."""
        skipped = file.binary and self._format.skip_binary and not self._format.text
        first = None if skipped else next(file.matches, None)
        self.any = self.any or first is not None
        match self._format.wanted:
            case "counts":
                if first is not None or file.named:
                    yield self._count(file, 0 if first is None else 1 + sum(1 for _ in file.matches))
            case "names" | "names without":
                if (first is None) == (self._format.wanted == "names without"):
                    yield self._name_alone(file.path)
            case "lines" if first is not None and file.binary and not self._format.text:
                yield self._binary(file.path)
            case "lines" if first is not None:
                yield from self._line(file.path, first)
                for found in file.matches:
                    yield from self._line(file.path, found)

    def _count(self, file: Searched, number: int) -> bytes:
        if self._format.as_json:
            return to_json(file.path, count=number) + b"\n"
        return self._begin(file.path, b":") + b"%d\n" % number

    def _name_alone(self, path: bytes) -> bytes:
        if self._format.as_json:
            return to_json(path) + b"\n"
        return self._painted("fn", self._show(path)) + (b"\0" if self._format.null_names else self._end)

    def _binary(self, path: bytes) -> bytes:
        if self._format.as_json:
            return to_json(path, binary=True) + b"\n"
        return b"Binary file " + self._show(path) + b" matches" + self._end

    def _line(self, path: bytes, found: FoundLine) -> Iterator[bytes]:
        if self._begins_group(path, found.number):
            yield self._painted("se", self._format.separator or b"") + b"\n"
        self._last = (path, found.number)
        if not self._format.parts:
            yield self._record(path, found, found.line)
        elif not isinstance(found, Context) and not self._format.invert:
            for begin, end in self._pattern.parts(found.line):
                yield self._record(path, found, found.line[begin:end])

    def _begins_group(self, path: bytes, number: int) -> bool:
        """Whether lines are missing between the last printed line and this one."""
        if self._format.separator is None or self._format.as_json or self._last is None:
            return False
        return self._last[0] != path or number > self._last[1] + 1

    def _record(self, path: bytes, found: FoundLine, shown: bytes) -> bytes:
        if self._format.as_json:
            return to_json(path, found._replace(line=shown)) + b"\n"
        mark = b"-" if isinstance(found, Context) else b":"
        number = self._painted("ln", b"%d" % found.number) + self._painted("se", mark) if self._format.numbers else b""
        return self._begin(path, mark) + number + self._text(found, shown) + self._end

    def _begin(self, path: bytes, mark: bytes) -> bytes:
        if not self._format.named:
            return b""
        return self._painted("fn", self._show(path)) + (b"\0" if self._format.null_names else self._painted("se", mark))

    def _text(self, found: FoundLine, shown: bytes) -> bytes:
        """Return a line to print, with its matching parts in colour."""
        if not self._colours or isinstance(found, Context) or self._format.invert:
            return self._show_line(shown)
        spans = [(0, len(shown))] if self._format.parts else self._pattern.parts(shown)
        pieces = []
        at = 0
        for begin, end in spans:
            pieces += [self._show_line(shown[at:begin]), self._painted("ms", self._show_line(shown[begin:end]))]
            at = end
        return b"".join([*pieces, self._show_line(shown[at:])])

    def _painted(self, kind: str, text: bytes) -> bytes:
        code = self._colours.get(kind)
        return b"\x1b[%bm%b\x1b[0m" % (code, text) if code else text


def colours(grep_colors: str) -> dict[str, bytes]:
    """Return the colours in `GREP_COLORS` (grep(1)), for matches, names, line numbers and separators."""
    found = dict(_COLOURS)
    for entry in grep_colors.split(":"):
        key, _, code = entry.partition("=")
        key = "ms" if key == "mt" else key
        if key in found and _CODE.fullmatch(code):
            found[key] = code
    return {key: code.encode() for key, code in found.items()}
