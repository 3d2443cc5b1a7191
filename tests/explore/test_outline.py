"""Which rows a tree has on the screen."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ocifs.explore.outline import Outline, Rest, Row
from ocifs.image.opening import open_image
from ocifs.report.overlay import Change, Overlay
from tests import images
from tests.explore.conftest import HOSTILE
from tests.tars import file, tar


@pytest.fixture
def shown(overlay: Overlay) -> Outline:
    """The changes of layer 1."""
    made = Outline()
    made.show(overlay, overlay.root(1), overlay.root(2))
    return made


def paths(shown: Outline) -> list[bytes]:
    return [row.path if isinstance(row, Row) else b"..." for row in shown.rows]


def test_directories_are_closed_at_first(shown: Outline) -> None:
    assert paths(shown) == [HOSTILE, b"bin", b"etc", b"link"]


def test_open_and_close(shown: Outline) -> None:
    shown.open(2)
    assert paths(shown)[2:] == [b"etc", b"etc/issue", b"etc/new", b"etc/old", b"link"]
    assert [row.parent.depth for row in shown.rows] == [0, 0, 0, 1, 1, 1, 0]
    shown.open(4)
    assert paths(shown)[4:6] == [b"etc/new", b"etc/new/deep"]
    shown.close(2)
    assert paths(shown)[2:] == [b"etc", b"link"]
    shown.open(2)  # what was open below still is
    assert b"etc/new/deep" in paths(shown)
    shown.open(0)  # no directory
    shown.close(0)
    assert len(shown.rows) == 8


def test_close_all(shown: Outline, overlay: Overlay) -> None:
    shown.open(2)
    shown.close_all()
    shown.show(overlay, overlay.root(1), overlay.root(2))
    assert len(shown.rows) == 4


@pytest.mark.parametrize(
    ("hidden", "left"),
    [
        (set(), [b"issue", b"new", b"old"]),
        ({"added"}, [b"issue", b"old"]),
        ({"removed"}, [b"issue", b"new"]),
        ({"changed"}, [b"new", b"old"]),
        ({"unchanged"}, [b"issue", b"new", b"old"]),
        ({"added", "removed", "changed"}, None),
    ],
)
def test_what_is_left_out(shown: Outline, overlay: Overlay, hidden: set[Change], left: list[bytes] | None) -> None:
    shown.open(2)
    shown.hidden = hidden
    shown.show(overlay, overlay.root(1), overlay.root(2))
    found = [path[4:] for path in paths(shown) if path.startswith(b"etc/")]
    assert found == (left or [])
    assert (b"etc" in paths(shown)) == (left is not None)
    assert (b"bin" in paths(shown)) == ("unchanged" not in hidden)


def test_only_what_was_found_and_the_way_there(shown: Outline, overlay: Overlay) -> None:
    shown.found = frozenset({b"etc", b"etc/new", b"etc/new/deep"})
    shown.open_way()
    shown.show(overlay, overlay.root(1), overlay.root(2))
    assert paths(shown) == [b"etc", b"etc/new", b"etc/new/deep"]


def test_parents_and_places(shown: Outline) -> None:
    shown.open(2)
    assert shown.parent(5) == 2
    assert shown.parent(2) == 2
    assert shown.index(b"etc/new") == 4
    assert shown.index(b"etc/new/not/shown") == 4
    assert shown.index(b"nowhere") == 0


@pytest.fixture
def wide(tmp_path: Path) -> Iterator[Overlay]:
    members = [file(f"d/{number:03}".encode()) for number in range(25)]
    with open_image(images.write_layout(tmp_path / "wide", images.Image((images.Layer(tar(members)),)))) as image:
        yield Overlay([image.rootfs])


def test_a_large_directory_is_read_page_by_page(wide: Overlay) -> None:
    shown = Outline(page=10)
    shown.show(wide, wide.root(1), wide.root(1))
    shown.open(0)
    assert len(shown.rows) == 12
    for rows in (22, 26):
        assert isinstance(shown.rows[-1], Rest)
        shown.open(len(shown.rows) - 1)
        assert len(shown.rows) == rows
    assert paths(shown)[1:] == [f"d/{number:03}".encode() for number in range(25)]


def test_no_more_is_looked_at_than_a_screen_can_wait_for(wide: Overlay) -> None:
    shown = Outline(look=10)
    shown.found = frozenset({b"d", b"d/020"})
    shown.open_way()
    shown.show(wide, wide.root(1), wide.root(1))
    assert paths(shown) == [b"d", b"..."]
    shown.open(1)
    shown.open(1)
    assert paths(shown) == [b"d", b"d/020"]


def test_directories_sorted_by_size(shown: Outline, overlay: Overlay) -> None:
    sizes = {b"old": 3, b"new": 4, b"issue": 7}
    known = {row.entry.shown: size for row in whole(shown) for name, size in sizes.items() if row.entry.name == name}
    shown.size_of = known.get
    shown.show(overlay, overlay.root(1), overlay.root(2))
    assert [row.entry.name for row in whole(shown) if row.entry.name in sizes] == [b"issue", b"new", b"old"]


def whole(shown: Outline) -> list[Row]:
    """Open /etc, and return its rows."""
    shown.open(shown.index(b"etc"))
    return [row for row in shown.rows if isinstance(row, Row)]
