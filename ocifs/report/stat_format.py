"""The formats of `stat -c` and `stat --printf` of GNU coreutils (stat(1)), for a file of an image.

An image has one time for each file, its modification time; a mount shows it as the time of access and change as well,
and so do these formats. Names of users and groups are those of the image.
"""

import os
import re
import stat
import time
from collections.abc import Callable

from ocifs.image.passwd import Names
from ocifs.report.escapes import CONTROL, ESCAPE, number_of
from ocifs.report.listing import Listed, Show, bounded_seconds

_DIRECTIVE = re.compile(
    rb"%(?P<flags>[-#0+ ']*)(?P<width>\d{0,4})(?:\.(?P<precision>\d{0,4}))?(?P<name>[HL]?.?)", re.DOTALL
)
_LETTERS = CONTROL | {"e": b"\x1b", "": b"\\"}
_SHORT = {value: b"\\" + letter.encode() for letter, value in CONTROL.items()}
_UNPRINTABLE = re.compile(r"((?:[^\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff])+)")
_WORDS = {
    stat.S_IFREG: "regular file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symbolic link",
    stat.S_IFCHR: "character special file",
    stat.S_IFBLK: "block special file",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


class FormatError(ValueError):
    """The format is malformed; the text says how."""


Value = Callable[[Listed, Names], bytes | int]

_VALUES: dict[bytes, Value] = {
    b"a": lambda entry, names: stat.S_IMODE(entry.inode.mode),
    b"A": lambda entry, names: entry.mode.encode(),
    b"b": lambda entry, names: entry.inode.blocks,
    b"B": lambda entry, names: 512,
    b"f": lambda entry, names: entry.inode.mode,
    b"F": lambda entry, names: _type(entry).encode(),
    b"g": lambda entry, names: entry.inode.gid,
    b"G": lambda entry, names: names.groups.get(entry.inode.gid, "UNKNOWN").encode(errors="surrogateescape"),
    b"h": lambda entry, names: entry.inode.nlink,
    b"i": lambda entry, names: entry.inode.nid,
    b"n": lambda entry, names: entry.name,
    b"N": lambda entry, names: _quoted_with_target(entry),
    b"o": lambda entry, names: 4096,
    b"r": lambda entry, names: entry.inode.rdev,
    b"Hr": lambda entry, names: _major(entry),
    b"Lr": lambda entry, names: _minor(entry),
    b"s": lambda entry, names: entry.inode.size,
    b"t": lambda entry, names: _major(entry),
    b"T": lambda entry, names: _minor(entry),
    b"u": lambda entry, names: entry.inode.uid,
    b"U": lambda entry, names: names.users.get(entry.inode.uid, "UNKNOWN").encode(errors="surrogateescape"),
    b"w": lambda entry, names: b"-",
    b"W": lambda entry, names: 0,
    **dict.fromkeys((b"x", b"y", b"z"), lambda entry, names: _time(entry.inode.mtime_ns)),
    **dict.fromkeys((b"X", b"Y", b"Z"), lambda entry, names: entry.inode.mtime_ns // 1_000_000_000),
}
_BASES = {b"a": (b"%o", b"0"), b"f": (b"%x", b"0x"), b"t": (b"%x", b"0x"), b"T": (b"%x", b"0x")}
SUPPORTED = " ".join(f"%{name.decode()}" for name in _VALUES) + " %%"


Form = Callable[[Listed, Names], bytes]
"""Renders a file."""


def parse_format(text: bytes, show: Show, *, escapes: bool = False) -> Form:
    """Return what renders a file; `show` makes text of the image printable.

    With `escapes`, a backslash begins an escape, as in `--printf`.

    Raises:
        FormatError: A directive does not exist, or the image has no such value.
    """
    pieces: list[bytes | Form] = []
    end = 0
    for match in _DIRECTIVE.finditer(text):
        pieces.append(_plain(text[end : match.start()], escapes=escapes))
        pieces.append(_directive(match, show))
        end = match.end()
    pieces.append(_plain(text[end:], escapes=escapes))
    return lambda entry, names: b"".join(piece if isinstance(piece, bytes) else piece(entry, names) for piece in pieces)


def _directive(match: re.Match[bytes], show: Show) -> bytes | Form:
    name, flags = match["name"], match["flags"]
    if match[0] in {b"%%", b"%"}:
        return b"%"
    value = _VALUES.get(name)
    if value is None:
        raise FormatError(f"{match[0].decode(errors='backslashreplace')!r} is not supported: use {SUPPORTED}")
    width, precision = int(match["width"] or 0), match["precision"]

    def render(entry: Listed, names: Names) -> bytes:
        found = value(entry, names)
        shown = show(found) if isinstance(found, bytes) else found
        return _padded(_rendered(shown, name, flags, precision), flags, width)

    return render


def _rendered(value: bytes | int, name: bytes, flags: bytes, precision: bytes | None) -> bytes:
    if isinstance(value, bytes):
        return value if precision is None else value[: int(precision or 0)]
    form, prefix = _BASES.get(name, (b"%d", b""))
    digits = form % value
    if b"#" in flags and value:
        return prefix + digits
    return b"+" + digits if b"+" in flags and form == b"%d" and value >= 0 else digits


def _padded(text: bytes, flags: bytes, width: int) -> bytes:
    if b"-" in flags:
        return text.ljust(width)
    return text.rjust(width, b"0") if b"0" in flags and text.isalnum() else text.rjust(width)


def _plain(text: bytes, *, escapes: bool) -> bytes:
    if not escapes:
        return text
    unescaped = ESCAPE.sub(_unescaped, text.decode(errors="surrogateescape"))
    return unescaped.encode(errors="surrogateescape")


def _unescaped(escape: re.Match[str]) -> str:
    if (value := number_of(escape)) is None:
        value = _LETTERS.get(escape["letter"])
    return escape["letter"] if value is None else value.decode(errors="surrogateescape")


def quoted(name: bytes) -> bytes:
    """Return a name as a word of a shell, always quoted, like `stat -c %N`; control characters become escapes."""
    text = name.decode(errors="surrogateescape")
    if not _UNPRINTABLE.search(text):
        if "'" in text and not re.search(r'["$`\\!]', text):
            return b'"%b"' % name
        return b"'%b'" % name.replace(b"'", b"'\\''")
    pieces = []
    for place, piece in enumerate(_UNPRINTABLE.split(text)):
        data = piece.encode(errors="surrogateescape")
        if place % 2:
            pieces.append(b"$'%b'" % b"".join(_SHORT.get(bytes([byte]), b"\\%03o" % byte) for byte in data))
        elif data or not place:
            pieces.append(b"'%b'" % data.replace(b"'", b"'\\''"))
    return b"".join(pieces)


def _quoted_with_target(entry: Listed) -> bytes:
    return quoted(entry.name) + (b"" if entry.target is None else b" -> " + quoted(entry.target))


def _type(entry: Listed) -> str:
    if entry.whiteout:
        return "whiteout"
    empty = stat.S_ISREG(entry.inode.mode) and not entry.inode.size
    return "regular empty file" if empty else _WORDS[stat.S_IFMT(entry.inode.mode)]


def _major(entry: Listed) -> int:
    return os.major(entry.inode.rdev)


def _minor(entry: Listed) -> int:
    return os.minor(entry.inode.rdev)


def _time(nanoseconds: int) -> bytes:
    local = time.localtime(bounded_seconds(nanoseconds))
    year, month, day, hour, minute, second, *_ = local
    clock = f"{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}"
    return f"{clock}.{nanoseconds % 1_000_000_000:09} {time.strftime('%z', local)}".encode()
