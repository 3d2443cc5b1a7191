"""Two texts as a unified diff, in the manner of `diff -u`."""

import difflib
from collections.abc import Iterator

MAX_SIZE = 1 << 20
"""Bytes that a text may have to be compared line by line; the time this takes grows faster than they do."""


def is_text(data: bytes) -> bool:
    """Whether data hold no NUL, which is how diff(1) tells."""
    return b"\0" not in data


def unified_diff(before: bytes, after: bytes, names: tuple[bytes, bytes]) -> Iterator[bytes]:
    """Give the lines, without their ends, of a diff of two texts by the `names` they go by; none if they are the same.

    Lines end with a newline only; the last one may lack it, which is told as diff(1) tells it.
    """
    for line in difflib.diff_bytes(difflib.unified_diff, _lines(before), _lines(after), *names):
        yield line.removesuffix(b"\n")
        if not line.endswith(b"\n"):
            yield b"\\ No newline at end of file"


def _lines(text: bytes) -> list[bytes]:
    lines = [line + b"\n" for line in text.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]
