"""The formats of find's action -printf: directives of GNU find about what an image knows of a file.

Times are those of the last modification, in the local time zone, with the ten digits of a fraction that GNU prints. An
image has no other times, no device and no file system: their directives are errors.
"""

import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from ocifs.errors import NotFoundError
from ocifs.report.escapes import CONTROL, ESCAPE, number_of
from ocifs.report.find_tests import TYPES, FindContext
from ocifs.report.listing import Listed, Show, bounded_seconds
from ocifs.report.visit import Visit

_DIRECTIVE = re.compile(r"%([-+ 0#]*)(\d*)(?:\.(\d*))?(T.|[A-SU-Za-z%]|$)", re.DOTALL)
_LETTERS = CONTROL | {"\\": b"\\"}
_MAX_WIDTH = 10_000
_NUMBERS = frozenset("dGinksbU")
"""Directives of numbers, which flags such as 0 apply to."""
_STRFTIME = frozenset("aAbBcCdDeFgGhHIjklmMpRrsStTuUVwWxXyYzZ")
_TYPES = {kind: letter.encode() for letter, kind in TYPES.items()}

_Value = Callable[[Visit, Show], bytes]


class PrintfFormat(NamedTuple):
    """A parsed format: text, and functions that return a part."""

    pieces: tuple[bytes | _Value, ...]

    def record(self, visit: Visit, show: Show) -> bytes:
        """Return the text for a file; `show` converts names to their printable form."""
        return b"".join(piece if isinstance(piece, bytes) else piece(visit, show) for piece in self.pieces)


def parse_format(text: str, context: FindContext) -> PrintfFormat:
    """Parse a format.

    Raises:
        ValueError: It contains a directive or an escape that does not exist, or that images have nothing for.
    """
    return PrintfFormat(tuple(_pieces(text, context)))


def _pieces(text: str, context: FindContext) -> Iterator[bytes | _Value]:
    at = 0
    while at < len(text):
        if text[at] == "%":
            match = _DIRECTIVE.match(text, at)
            if match is None or not match[4]:
                raise ValueError(f"the directive {text[at : at + 2]!r} at character {at + 1} is incomplete")
            yield _directive(match, context)
            at = match.end()
        elif text[at] == "\\":
            match = ESCAPE.match(text, at)
            assert match is not None  # noqa: S101 - it matches any character
            if match["letter"] == "c":  # ends the output, as in GNU find
                return
            yield _escaped(match)
            at = match.end()
        else:
            end = next((place for place in range(at, len(text)) if text[place] in "%\\"), len(text))
            yield text[at:end].encode(errors="surrogateescape")
            at = end


def _escaped(escape: re.Match[str]) -> bytes:
    value = number_of(escape) if escape["octal"] else _LETTERS.get(escape["letter"])
    if value is None:
        raise ValueError(f"the escape {escape[0][:2]} does not exist: write \\\\ for a backslash")
    return value


def _directive(match: re.Match[str], context: FindContext) -> bytes | _Value:
    flags, width, precision, name = match[1], int(match[2] or 0), match[3], match[4]
    if name == "%":
        return b"%"
    if max(width, int(precision or 0)) > _MAX_WIDTH:
        raise ValueError(f"widths have at most {_MAX_WIDTH} characters")
    value = _value(name, context)
    if name == "m" and "#" in flags:
        value = _octal
    if not (flags or width or precision is not None):
        return value

    def padded(visit: Visit, show: Show) -> bytes:
        return _pad(value(visit, show), flags, width, precision, is_number=name in _NUMBERS, is_mode=name == "m")

    return padded


def _pad(text: bytes, flags: str, width: int, precision: str | None, *, is_number: bool, is_mode: bool) -> bytes:
    if is_number and text.isdigit():
        sign = b"+" if "+" in flags else b" " if " " in flags else b""
        text = sign + text
    elif precision is not None and not is_mode:
        text = text[: int(precision or 0)]
    if "-" in flags:
        return text.ljust(width)
    return text.rjust(width, b"0" if "0" in flags and (is_number or is_mode) else b" ")


def _value(name: str, context: FindContext) -> _Value:
    if name[0] == "T":
        return _time(name[1])
    match name:
        case "u":
            return lambda visit, show: _named(context.names.users, visit.inode.uid, show)
        case "g":
            return lambda visit, show: _named(context.names.groups, visit.inode.gid, show)
    if name in _VALUES:
        return _VALUES[name]
    if name in {"a", "A", "c", "C", "B"}:
        raise ValueError(f"%{name}: an image has only modification times: use %t, or %T with a letter such as %T+")
    if name in {"D", "F", "S", "Z"}:
        raise ValueError(f"%{name}: an image has no such attribute: mount it and use find(1)")
    raise ValueError(f"%{name} does not exist: write %% for a percent sign")


def _named(names: Mapping[int, str], number: int, show: Show) -> bytes:
    name = names.get(number)
    return b"%d" % number if name is None else show(name.encode(errors="surrogateescape"))


def _octal(visit: Visit, show: Show) -> bytes:
    mode = stat.S_IMODE(visit.inode.mode)
    return b"0%o" % mode if mode else b"0"


def _time(letter: str) -> _Value:
    if letter not in _STRFTIME | {"@", "+"}:
        raise ValueError(f"%T{letter} does not exist: see strftime(3) for letters, or use %T@ or %T+")
    form = {"+": "%Y-%m-%d+%T", "@": "%s", "S": "%S", "X": "%T"}.get(letter, f"%{letter}")

    def shown(visit: Visit, show: Show) -> bytes:
        seconds = bounded_seconds(visit.inode.mtime_ns)
        fraction = f".{visit.inode.mtime_ns % 10**9:09}0" if letter in {"@", "S", "T", "X", "+"} else ""
        text = str(seconds) if letter == "@" else time.strftime(form, time.localtime(seconds))
        return (text + fraction).encode(errors="surrogateescape")

    return shown


def _ctime(visit: Visit, show: Show) -> bytes:
    local = time.localtime(bounded_seconds(visit.inode.mtime_ns))
    return time.strftime(f"%a %b %e %H:%M:%S.{visit.inode.mtime_ns % 10**9:09}0 %Y", local).encode()


def _type(visit: Visit, show: Show) -> bytes:
    return b"w" if visit.rootfs.is_whiteout(visit.inode) else _TYPES[stat.S_IFMT(visit.inode.mode)]


def _type_behind(visit: Visit, show: Show) -> bytes:
    """Return the type of what a symlink leads to: N if it does not exist, L if there are too many symlinks."""
    if visit.target is None:
        return _type(visit, show)
    try:
        nid = visit.rootfs.lookup(visit.path)
    except NotFoundError as error:
        return b"L" if "symbolic links" in str(error) else b"N"
    return _TYPES[stat.S_IFMT(visit.rootfs.tree.inode(nid).mode)]


def _directory(visit: Visit, show: Show) -> bytes:
    parent, slash, name = visit.path.rpartition(b"/")
    if not name:
        parent = visit.path.rstrip(b"/") or b"/"
    return show(parent if slash else b".")


def _last(visit: Visit, show: Show) -> bytes:
    return show(visit.printed.rpartition(b"/")[2] or visit.path)


_VALUES: dict[str, _Value] = {
    "p": lambda visit, show: show(visit.printed),
    "P": lambda visit, show: show(visit.printed[len(visit.path) - len(visit.below) :] if visit.below else b""),
    "H": lambda visit, show: show(visit.start),
    "f": _last,
    "h": _directory,
    "d": lambda visit, show: b"%d" % visit.depth,
    "s": lambda visit, show: b"%d" % visit.inode.size,
    "b": lambda visit, show: b"%d" % visit.inode.blocks,
    "k": lambda visit, show: b"%d" % -(-visit.inode.blocks // 2),
    "m": lambda visit, show: b"%o" % stat.S_IMODE(visit.inode.mode),
    "M": lambda visit, show: Listed.of(visit.rootfs, visit.path, visit.nid).mode.encode(),
    "U": lambda visit, show: b"%d" % visit.inode.uid,
    "G": lambda visit, show: b"%d" % visit.inode.gid,
    "n": lambda visit, show: b"%d" % visit.inode.nlink,
    "i": lambda visit, show: b"%d" % visit.nid,
    "l": lambda visit, show: show(visit.target or b""),
    "y": _type,
    "Y": _type_behind,
    "t": _ctime,
}
