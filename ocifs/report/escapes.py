"""The escapes that the formats of find and stat have in common: letters of control characters, and octal numbers."""

import re
from typing import Final

ESCAPE: Final = re.compile(r"\\(?:x(?P<hexadecimal>[0-9a-fA-F]{1,2})|(?P<octal>[0-7]{1,3})|(?P<letter>.|$))", re.DOTALL)
"""A backslash and what follows it; of a letter, only each format knows whether it exists."""

CONTROL: Final = {"a": b"\a", "b": b"\b", "f": b"\f", "n": b"\n", "r": b"\r", "t": b"\t", "v": b"\v"}


def number_of(escape: re.Match[str]) -> bytes | None:
    """Return the byte that a number stands for; None: the escape is a letter."""
    if escape["hexadecimal"] is not None:
        return bytes([int(escape["hexadecimal"], 16)])
    return None if escape["octal"] is None else bytes([int(escape["octal"], 8) & 0xFF])
