"""Columns of names; `tests/cli/test_namesakes.py` compares the listings with GNU ls."""

from hypothesis import given
from hypothesis import strategies as st

from ocifs.report.ls import columns, text_width


@given(st.lists(st.text("ab漢é", min_size=1, max_size=30)), st.integers(1, 120))
def test_columns_fit_and_show_every_name_in_order(names: list[str], width: int) -> None:
    cells = [(name.encode(), text_width(name.encode())) for name in names]
    lines = list(columns(cells, width))
    rows = [line.decode().split() for line in lines]
    assert sum(map(len, rows)) == len(names)
    down = [row[place] for place in range(max(map(len, rows), default=0)) for row in rows if place < len(row)]
    assert down == names
    assert all(text_width(line) <= max(width, text_width(line.split()[0])) for line in lines)


def test_columns_of_a_small_terminal() -> None:
    cells = [(name, len(name)) for name in (b"a", b"bbbb", b"c", b"d", b"e")]
    assert list(columns(cells, 8)) == [b"a     d", b"bbbb  e", b"c"]
    assert list(columns(cells, 80)) == [b"a  bbbb  c  d  e"]
    assert list(columns([], 80)) == []


def test_the_width_on_a_terminal() -> None:
    assert [text_width(name.encode()) for name in ("", "abc", "é", "e\u0301", "漢字")] == [0, 3, 1, 1, 4]
