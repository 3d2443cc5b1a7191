"""Classify names in a layer: whiteouts remove a file instead of adding one.

OCI image-spec layer.md, "Representing Changes" and "Whiteouts"; `.wh..wh.` names are metadata of AUFS. `merge` decides
what a whiteout removes.
"""

from collections.abc import Sequence
from enum import Enum

from ocifs.errors import InvalidImageError, printable

_PREFIX = b".wh."
_META = b".wh..wh."
_OPAQUE = b".wh..wh..opq"


class Mark(Enum):
    """The meaning of an entry's name."""

    ORDINARY = "a file to add"
    LITERAL = "a file to add, below a directory with the name of a whiteout"
    WHITEOUT = "removes the file of that name"
    OPAQUE = "removes the content of the directory"
    DROPPED = "AUFS metadata, or below it"


def classify(path: Sequence[bytes]) -> tuple[Mark, bytes]:
    """Return the meaning of the cleaned `path`, a sequence of names, and the name that a whiteout removes.

    Raises:
        InvalidImageError: In any name of the path, only `.`, `..` or nothing follows `.wh.`.
    """
    if _PREFIX not in b"/".join(path):
        return Mark.ORDINARY, b""
    mark = Mark.ORDINARY
    for depth, name in enumerate(path, 1):
        if not name.startswith(_PREFIX):
            continue
        if name == _OPAQUE and depth == len(path):
            return Mark.OPAQUE, b""
        if name.startswith(_META):
            return Mark.DROPPED, b""
        removed = name.removeprefix(_PREFIX)
        if removed in (b"", b".", b".."):
            raise InvalidImageError(f"whiteout '{printable(name)}' names no file that a layer may remove")
        if depth == len(path):
            return Mark.WHITEOUT, removed
        mark = Mark.LITERAL
    return mark, b""
