"""Numbers, times and tables in human-readable form."""

import time
from collections.abc import Collection, Iterator, Sequence

NARROWEST = 12
"""Characters that a column keeps when a table is fitted to a terminal."""


def human_size(size: int) -> str:
    """Return a size with three digits and a binary unit."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if amount < 999.5:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 99.5 else f"{amount:.3g} {unit}"
        amount /= 1024
    return f"{amount:.3g} EiB"


def short_size(size: int) -> str:
    """Return a size like `ls -h` and `du -h`: rounded up, with one letter for the binary unit, none for bytes."""
    if size < 1024:
        return str(size)
    unit = 1
    for letter in "KMGTPE":
        unit <<= 10
        tenths, whole = -(-size * 10 // unit), -(-size // unit)
        if tenths < 100:
            return f"{tenths // 10}.{tenths % 10}{letter}"
        if whole < 1024:
            return f"{whole}{letter}"
    raise ValueError(f"{size} bytes are more than a file has")


def table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> Iterator[str]:
    """Yield a line for each row, with cells padded to the width of their column; columns in `right` align right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = enumerate(zip(row, widths, strict=True))
        yield "  ".join(cell.rjust(width) if at in right else cell.ljust(width) for at, (cell, width) in cells)


def elided(text: str, width: int) -> str:
    """Return a text cut in the middle to at most `width` characters: the end of a path tells more than its middle."""
    if len(text) <= width:
        return text
    end = max(0, width - 1) * 2 // 3
    return f"{text[: max(0, width - 1) - end]}…{text[len(text) - end :]}"


def fitted(rows: Sequence[Sequence[str]], width: int | None, elastic: Sequence[int]) -> list[list[str]]:
    """Return the rows of a table of at most `width` columns; None: as they are.

    The columns `elastic` share what the others leave, in proportion to their excess, but keep 12 characters each.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    excess = 0 if width is None else sum(widths) + 2 * (len(widths) - 1) - width
    for column in sorted(elastic, key=lambda column: widths[column]):
        # The narrowest first: what it cannot give up, wider ones do.
        spare = sum(max(0, widths[each] - NARROWEST) for each in elastic if widths[each] >= widths[column])
        own = max(0, widths[column] - NARROWEST)
        cut = min(own, -(-max(0, excess) * own // spare) if spare else 0)
        widths[column] -= cut
        excess -= cut
    return [[elided(cell, room) for cell, room in zip(row, widths, strict=True)] for row in rows]


def local_time(seconds: float) -> str:
    """Return a time since the epoch in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
