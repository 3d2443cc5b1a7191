"""Sizes as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocifs.report.text import human_size


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
