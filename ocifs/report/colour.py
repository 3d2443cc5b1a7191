"""Colour names by LS_COLORS, like GNU ls(1) and dircolors(1).

Supports file types, set-id bits, sticky and writable directories, and suffixes. The caller decides whether the output
is a terminal that shows colours.
"""

import stat
from collections.abc import Callable

from ocifs.report.listing import Listed, Paint

_DEFAULTS = "di=01;34:ln=01;36:pi=33:so=01;35:bd=01;33:cd=01;33:su=37;41:sg=30;43:tw=30;42:ow=34;42:st=37;44:ex=01;32"
"""The defaults of GNU ls, for keys that LS_COLORS does not set."""
_CODE_CHARACTERS = frozenset("0123456789;:")

_KINDS: tuple[tuple[str, Callable[[int], bool]], ...] = (
    ("tw", lambda mode: stat.S_ISDIR(mode) and mode & 0o1002 == 0o1002),
    ("ow", lambda mode: stat.S_ISDIR(mode) and bool(mode & 0o002)),
    ("st", lambda mode: stat.S_ISDIR(mode) and bool(mode & 0o1000)),
    ("di", stat.S_ISDIR),
    ("ln", stat.S_ISLNK),
    ("pi", stat.S_ISFIFO),
    ("so", stat.S_ISSOCK),
    ("bd", stat.S_ISBLK),
    ("cd", stat.S_ISCHR),
    ("su", lambda mode: stat.S_ISREG(mode) and bool(mode & stat.S_ISUID)),
    ("sg", lambda mode: stat.S_ISREG(mode) and bool(mode & stat.S_ISGID)),
    ("ex", lambda mode: stat.S_ISREG(mode) and bool(mode & 0o111)),
)
"""The first matching key that has a colour applies."""


def painter(ls_colors: str) -> Paint:
    """Return a painter for the text of `LS_COLORS`; entries that are not colours are ignored."""
    codes: dict[str, bytes] = {}
    endings: dict[bytes, bytes] = {}
    for entry in f"{_DEFAULTS}:{ls_colors}".split(":"):
        key, equals, code = entry.partition("=")
        if not equals or not _CODE_CHARACTERS.issuperset(code):
            continue
        if key.startswith("*"):
            endings[key[1:].lower().encode(errors="surrogateescape")] = code.encode()
        else:
            codes[key] = b"" if code.strip("0") == "" else code.encode()

    def paint(name: bytes, entry: Listed) -> bytes:
        mode = entry.inode.mode
        code = next((codes[key] for key, suits in _KINDS if codes.get(key) and suits(mode)), b"")
        if not code and stat.S_ISREG(mode):
            lower = entry.path.lower()
            fitting = [ending for ending in endings if lower.endswith(ending)]
            code = endings[max(fitting, key=len)] if fitting else codes.get("fi", b"")
        return b"\x1b[%bm%b\x1b[0m" % (code, name) if code else name

    return paint
