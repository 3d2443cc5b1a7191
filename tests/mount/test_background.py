"""What a daemon does in the background: here only what is computed (tests/mounted/test_registry.py has the rest)."""

import pytest

from ocifs.mount.background import _ranges


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([], []),
        ([5], [(5, 5)]),
        ([5, 6, 7], [(5, 7)]),
        ([7, 6, 5], [(5, 7)]),
        ([5, 7], [(5, 7)]),
        ([5, 8], [(5, 5), (8, 8)]),
        ([20, 1, 2, 21], [(20, 21), (1, 2)]),
    ],
)
def test_ranges_join_neighbours_in_the_order_of_wanting(wanted: list[int], expected: list[tuple[int, int]]) -> None:
    assert _ranges(wanted) == expected
