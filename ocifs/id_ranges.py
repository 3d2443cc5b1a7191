"""Ranges of ids of a user namespace, as lines of `/proc/PID/uid_map` have them (user_namespaces(7))."""

from collections.abc import Iterable

IdRange = tuple[int, int, int]
"""(first id inside, in the image or container; first id on this machine; count)."""
IdMap = tuple[tuple[IdRange, ...], tuple[IdRange, ...]]
"""The ranges of uids and of gids."""


def mapped(number: int, ranges: Iterable[IdRange]) -> int | None:
    """Return the id on this machine for an id inside; None if there is none."""
    for inside, outside, count in ranges:
        if inside <= number < inside + count:
            return outside + number - inside
    return None
