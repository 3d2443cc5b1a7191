"""The beginning of a file as lines for a screen: as text, or in hex like `hexdump -C`.

Hex lines in a frame beside a scroll bar fit a terminal of 80 columns.
"""

from collections.abc import Sequence

from ocifs.errors import printable

_ROW = 16
_TAB = 8
_SNIFFED = 8192


def is_binary(data: bytes) -> bool:
    """Return whether the data are binary, by grep's rule: a NUL near the beginning."""
    return b"\0" in data[:_SNIFFED]


def text_lines(data: bytes) -> Sequence[str]:
    """Return the lines, without control characters."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return [printable(line.removesuffix(b"\r").expandtabs(_TAB)) for line in lines]


def hex_lines(data: bytes) -> Sequence[str]:
    """Return a line for each sixteen bytes: offset, hex and ASCII."""
    return [_hex_line(start, data[start : start + _ROW]) for start in range(0, len(data), _ROW)]


def _hex_line(start: int, row: bytes) -> str:
    halves = f"{row[:8].hex(' '):23}  {row[8:].hex(' '):23}"
    shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
    return f"{start:06x}  {halves}  |{shown}|"
