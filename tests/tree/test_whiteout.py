import pytest

from ocifs.errors import InvalidImageError
from ocifs.tree.whiteout import Mark, classify


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"", (Mark.ORDINARY, b"")),
        (b"a/b", (Mark.ORDINARY, b"")),
        (b"a/.wh", (Mark.ORDINARY, b"")),
        (b"a/x.wh.b", (Mark.ORDINARY, b"")),
        (b"b/not.a.wh..wh..opq", (Mark.ORDINARY, b"")),
        (b".wh.a/file", (Mark.LITERAL, b"")),
        (b".wh.a/.wh.b", (Mark.WHITEOUT, b"b")),
        (b".wh.a", (Mark.WHITEOUT, b"a")),
        (b"a/.wh.b", (Mark.WHITEOUT, b"b")),
        (b"a/.wh..b", (Mark.WHITEOUT, b".b")),
        (b"a/.wh....", (Mark.WHITEOUT, b"...")),
        (b"a/.wh.\xff", (Mark.WHITEOUT, b"\xff")),
        (b".wh..wh", (Mark.WHITEOUT, b".wh")),
        (b".wh..wh..opq", (Mark.OPAQUE, b"")),
        (b"a/.wh..wh..opq", (Mark.OPAQUE, b"")),
        (b"a/.wh..wh..opq/x", (Mark.DROPPED, b"")),
        (b"a/.wh..wh..opqx", (Mark.DROPPED, b"")),
        (b".wh..wh.", (Mark.DROPPED, b"")),
        (b".wh..wh.aufs", (Mark.DROPPED, b"")),
        (b".wh..wh.plnk", (Mark.DROPPED, b"")),
        (b".wh..wh.plnk/1.2", (Mark.DROPPED, b"")),
    ],
)
def test_classify(path: bytes, expected: tuple[Mark, bytes]) -> None:
    assert classify(path.split(b"/") if path else []) == expected


@pytest.mark.parametrize("path", [b".wh.", b".wh..", b".wh...", b"a/.wh.", b"a/.wh..", b"a/.wh...", b".wh../a"])
def test_whiteout_of_nothing(path: bytes) -> None:
    with pytest.raises(InvalidImageError, match="names no file"):
        classify(path.split(b"/"))
