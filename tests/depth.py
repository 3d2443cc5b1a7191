"""How deep tests go that could go on for ever: bounded by default, and all the way by `scripts/test --full`."""

import os
from typing import TypeVar

T = TypeVar("T")

FULL = bool(os.environ.get("OCIFS_TEST_FULL"))


def depth(bounded: T, full: T) -> T:
    """Return how much of something a test does: seconds, examples, cases."""
    return full if FULL else bounded
