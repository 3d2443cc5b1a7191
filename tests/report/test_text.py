"""Sizes as people read them."""

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocifs.report.text import elided, fitted, human_size, short_size, table


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (1024, "1 KiB"),
        (10 * 1024, "10 KiB"),
        (1536, "1.5 KiB"),
        (99 * 1024 + 500, "99.5 KiB"),
        (999 * 1024, "999 KiB"),
        (1023 * 1024, "0.999 MiB"),
        (469 << 20, "469 MiB"),
        (1 << 40, "1 TiB"),
        (1 << 50, "1 PiB"),
        (2**63 - 1, "8 EiB"),
    ],
)
def test_human_size(size: int, text: str) -> None:
    assert human_size(size) == text


@given(st.integers(0, 2**63 - 1))
def test_a_size_is_short_and_right_to_three_digits(size: int) -> None:
    number, unit = human_size(size).split()
    assert len(number.replace(".", "").lstrip("0")) <= 3
    scale = 1024 ** ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].index(unit)
    assert float(number) * scale == pytest.approx(size, rel=0.006)


def test_short_sizes_are_those_of_coreutils() -> None:
    sizes = [0, 1, 1023, 1024, 1025, 10188, 10189, 10240, 10241, 1048064, 1048065, 1 << 20, 10**7, 123456789, 10**12]
    sizes += [number for power in range(10, 63) for number in (2**power - 1, 2**power, 2**power + 1)]
    text = "".join(f"{size}\n" for size in sizes)
    ran = subprocess.run(["numfmt", "--to=iec", "--round=up"], input=text, capture_output=True, text=True, check=True)
    assert [short_size(size) for size in sizes] == ran.stdout.split()


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [("/a/b/c", 6, "/a/b/c"), ("/usr/share/doc", 10, "/us…re/doc"), ("abc", 1, "…"), ("abc", 2, "a…"), ("", 0, "")],
)
def test_elided(text: str, width: int, shown: str) -> None:
    assert elided(text, width) == shown


@given(
    st.lists(st.tuples(st.text("ab", max_size=60), st.text("cd", max_size=60), st.text("e", max_size=9)), min_size=1),
    st.integers(40, 140),
)
def test_tables_fit(rows: list[tuple[str, str, str]], width: int) -> None:
    lines = [line.rstrip() for line in table(fitted(rows, width, (0, 1)))]
    assert max(map(len, lines)) <= width
    whole = [line.rstrip() for line in table(rows)]
    assert list(table(fitted(rows, None, (0, 1)))) == list(table(rows))
    if (
        max(len(row[0]) for row in rows) + max(len(row[1]) for row in rows) + max(len(row[2]) for row in rows) + 4
        <= width
    ):
        assert lines == whole


def test_other_columns_are_not_cut() -> None:
    ((first, second, third),) = fitted([("a" * 50, "b" * 20, "c" * 30)], 70, (0, 1))
    assert (len(first) + len(second), third) == (36, "c" * 30)
    assert fitted([("a" * 50, "c" * 90)], 40, (0,)) == [["aaaa…aaaaaaa", "c" * 90]]
