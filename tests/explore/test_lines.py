"""Bars and cut text in the lines of a pane."""

import pytest

from ocifs.explore.lines import StyledText, bar, bar_width, cut_parts


@pytest.mark.parametrize(
    ("room", "text", "columns"),
    [(37, 10, 27), (37, 37, 9), (37, 100, 9), (90, 20, 60), (300, 40, 75), (12, 12, 4), (3, 3, 4)],
)
def test_bars_use_the_width_that_texts_leave(room: int, text: int, columns: int) -> None:
    assert bar_width(room, text) == columns


@pytest.mark.parametrize(("part", "drawn"), [(0, "    "), (0.5, "██  "), (1, "████"), (2, "████"), (0.03, "▏   ")])
def test_a_bar(part: float, drawn: str) -> None:
    assert bar(part, 4) == drawn


@pytest.mark.parametrize(
    ("width", "left"),
    [
        (6, [("abc", "x"), ("def", "y")]),
        (5, [("abc", "x"), ("d…", "y")]),
        (4, [("abc", "x"), ("…", "y")]),
        (3, [("ab…", "x")]),
        (1, [("…", "x")]),
        (0, []),
    ],
)
def test_parts_are_cut_with_an_ellipsis(width: int, left: list[StyledText]) -> None:
    assert cut_parts([("abc", "x"), ("def", "y")], width) == left
