"""Unified diffs of two texts, like `diff -u`."""

import difflib
from collections.abc import Iterator

MAX_SIZE = 1 << 20
"""Size limit, in bytes, for a comparison by line; its cost grows faster than the size."""


def is_text(data: bytes) -> bool:
    """Return whether the data contain no NUL, which is the rule of diff(1)."""
    return b"\0" not in data


def unified_diff(before: bytes, after: bytes, names: tuple[bytes, bytes]) -> Iterator[bytes]:
    """Yield the lines, without newlines, of a diff of two texts called `names`; nothing if they are equal.

    Only a newline ends a line. A missing final newline is reported like diff(1) does.
    """
    for line in difflib.diff_bytes(difflib.unified_diff, _lines(before), _lines(after), *names):
        yield line.removesuffix(b"\n")
        if not line.endswith(b"\n"):
            yield b"\\ No newline at end of file"


def _lines(text: bytes) -> list[bytes]:
    lines = [line + b"\n" for line in text.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]
