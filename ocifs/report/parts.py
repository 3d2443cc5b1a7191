"""The part of a file that head(1) or tail(1) prints, found without reading the rest where possible."""

import io
import os
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

_CHUNK = 1 << 20
_FIRST_CHUNK = 16 << 10
"""Read first from the end of a file; each further read towards the beginning is twice as large, up to `_CHUNK`."""
_COUNT = re.compile(r"([+-]?)(.+)", re.DOTALL)

Unit = Literal["lines", "bytes"]


class Part(NamedTuple):
    """Lines or bytes at the beginning or the end of a file."""

    unit: Unit
    number: int
    end: bool = False
    """Count from the end."""
    rest: bool = False
    """All but these."""


def split_sign(text: str) -> tuple[str, str]:
    """Split the argument of `-n` or `-c` into a sign and a number."""
    match = _COUNT.fullmatch(text)
    return (match[1], match[2]) if match else ("", text)


def read_part(file: io.BufferedReader, part: Part) -> Iterator[bytes]:
    """Yield the part of a file in pieces; a last line may lack its newline. `file` is at its beginning."""
    if part.unit == "lines" and not part.end:
        if part.rest:
            _skip_lines(file, part.number)
            yield from _read(file, None)
        else:
            yield from _first_lines(file, part.number)
        return
    size = file.seek(0, os.SEEK_END)
    if part.unit == "lines":
        middle = _start_of_last_lines(file, size, part.number)
    else:
        middle = max(0, size - part.number) if part.end else min(part.number, size)
    begins = part.end == part.rest  # from the beginning to the middle
    file.seek(0 if begins else middle)
    yield from _read(file, middle if begins else None)


def _read(file: io.BufferedReader, size: int | None) -> Iterator[bytes]:
    while size is None or size > 0:
        piece = file.read(_CHUNK if size is None else min(size, _CHUNK))
        if not piece:
            return
        yield piece
        size = None if size is None else size - len(piece)


def _first_lines(file: io.BufferedReader, count: int) -> Iterator[bytes]:
    """Yield lines; an endless line comes in pieces."""
    while count and (piece := file.readline(_CHUNK)):
        yield piece
        count -= piece.endswith(b"\n")


def _skip_lines(file: io.BufferedReader, count: int) -> None:
    for _ in _first_lines(file, count):
        pass


def _start_of_last_lines(file: io.BufferedReader, size: int, count: int) -> int:
    """Return where the last lines begin; read backwards from the end."""
    if not count:
        return size
    end = size - 1  # the last byte ends the last line, newline or not
    chunk = _FIRST_CHUNK
    while end > 0:
        start = max(0, end - chunk)
        file.seek(start)
        data = file.read(end - start)
        found = data.count(b"\n")
        if found >= count:
            place = len(data)
            for _ in range(count):
                place = data.rindex(b"\n", 0, place)
            return start + place + 1
        count -= found
        end = start
        chunk = min(2 * chunk, _CHUNK)
    return 0
