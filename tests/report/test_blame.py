"""The history of a path: every way in which a layer can add, change, remove or hide it."""

import json
from pathlib import Path

import msgspec
import pytest

from ocifs.errors import NotFoundError
from ocifs.image.opening import Image, open_image
from ocifs.report.blame import history_lines, history_members, path_history
from tests import images
from tests.tars import directory, file, hardlink, symlink, tar


def told(image: Image, path: bytes) -> list[str]:
    """Return a line for each event: layer, change, and `hidden`, or the path of the cause."""
    return [
        f"{event.layer} {event.change}"
        + (" hidden" if event.hidden else "")
        + (f" {event.cause.type}:{event.cause.path.decode()}" if event.cause else "")
        for event in path_history(image, path)
    ]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/etc/passwd", ["0 added"]),
        (b"etc/issue", ["0 added hidden", "1 changed hidden", "2 removed whiteout:/etc/issue"]),
        (b"/doc/one", ["0 added hidden", "2 removed directory:/doc"]),
        (b"/doc/two", ["0 added hidden", "2 changed"]),
        (b"/doc", ["0 added", "2 emptied directory:/doc"]),
        (b"/gone", ["0 added hidden", "1 removed whiteout:/gone", "2 added"]),
        (b"/gone/deep/file", ["0 added hidden", "1 removed whiteout:/gone"]),
        (b"/tree", ["0 added hidden", "1 changed"]),
        (b"/tree/leaf", ["0 added hidden", "1 removed regular:/tree"]),
        (b"/lib", ["0 added"]),
        (b"/lib/new", ["1 added"]),
        (b"/usr/lib/new", ["1 added"]),
        (b"/lib/../lib/./lib.so", ["0 added"]),
        (b"/etc/lib", ["1 added"]),
        (b"/", ["0 changed"]),
        (b"/usr", ["0 added"]),
    ],
)
def test_history(layered: Image, path: bytes, expected: list[str]) -> None:
    assert told(layered, path) == expected


@pytest.mark.parametrize("path", [b"/never", b"/etc/never/was", b"/etc/passwd/x", b"never\x1b"])
def test_what_no_layer_ever_had(layered: Image, path: bytes) -> None:
    with pytest.raises(NotFoundError, match="no layer of the image has") as error:
        path_history(layered, path)
    assert str(error.value).isprintable()


def test_lines(layered: Image) -> None:
    digests = ["sha256:" + str(number) * 64 for number in range(3)]

    def lines(path: bytes) -> list[str]:
        return [line.decode() for line in history_lines(path_history(layered, path), digests, lambda name: name)]

    first, second, third = lines(b"etc/issue")
    assert first.startswith("layer 0  sha256:000000000000  added    -rw-r--r-- 0 0 4 2001-09-0")
    assert first.endswith("  (hidden)")
    assert second.startswith("layer 1  sha256:111111111111  changed  -rw-r--r-- 0 0 7 2017-07-1")
    assert third == "layer 2  sha256:222222222222  removed  by the whiteout /etc/.wh.issue"
    assert lines(b"doc/one")[1].endswith("removed  by the opaque whiteout of /doc")
    assert lines(b"doc")[1].endswith("(opaque)")
    assert lines(b"tree/leaf")[1].endswith("removed  by a regular file at /tree")
    assert lines(b"etc/lib") == [line for line in lines(b"etc/lib") if line.endswith("(the file of layer 0)")] != []
    assert lines(b"lib")[0].endswith(" -> usr/lib")
    assert " 1, 3 " in lines(b"null")[0]


def test_json(layered: Image) -> None:
    events = [
        json.loads(msgspec.json.encode(history_members(b"etc/issue", e))) for e in path_history(layered, b"etc/issue")
    ]
    assert [(event["path"], event["layer"], event["change"], event["hidden"]) for event in events] == [
        ("etc/issue", 0, "added", True),
        ("etc/issue", 1, "changed", True),
        ("etc/issue", 2, "removed", False),
    ]
    assert events[0]["file"]["size"] == 4
    assert events[1]["file"]["extents"][0]["layer"] == 1
    assert (events[2]["cause"], events[2]["cause_path"]) == ("whiteout", "/etc/issue")
    assert "file" not in events[2]
    cause = history_members(b"doc/one", path_history(layered, b"doc/one")[1])
    assert (cause["cause"], cause["cause_path"]) == ("opaque", "/doc")


def test_what_lies_below_a_directory_that_comes_back(tmp_path: Path) -> None:
    layers = [
        [directory(b"d"), file(b"d/old"), file(b"d/kept")],
        [file(b".wh.d"), file(b"d/kept", b"new")],
        [symlink(b"d", b"elsewhere")],
        [directory(b"d"), hardlink(b"d/kept", b"f")],
    ]
    layers[0].insert(0, file(b"f", b"f"))
    layout = images.write_layout(tmp_path / "image", images.Image(tuple(images.Layer(tar(each)) for each in layers)))
    with open_image(layout) as opened:
        assert told(opened, b"d/old") == ["0 added hidden", "1 removed directory:/d"]
        assert told(opened, b"d/kept") == ["0 added hidden", "1 changed hidden", "2 removed symlink:/d", "3 added"]
        assert told(opened, b"d") == ["0 added hidden", "1 changed hidden", "2 changed hidden", "3 changed"]
