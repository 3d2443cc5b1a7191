"""Search for paths by a pattern, with the meaning that `glob` has in pathlib of Python 3.13.

It knows of a path only what `Searchable` has, and yields each match once.
"""

import re
from collections.abc import Iterator
from fnmatch import translate
from pathlib import PurePosixPath
from typing import Protocol, Self, TypeVar

_MAGIC = re.compile(r"[*?\[]")


class Searchable(Protocol):
    """A path below which to search."""

    @property
    def name(self) -> str:
        """The last name."""
        ...

    def is_dir(self) -> bool:
        """Whether it leads to a directory."""
        ...

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether the file exists."""
        ...

    def iterdir(self) -> Iterator[Self]:
        """Yield the files of a directory."""
        ...

    def below(self, *, directories: bool = False) -> Iterator[Self]:
        """Yield this file and everything below it, or only `directories`."""
        ...

    def __truediv__(self, segment: str, /) -> Self: ...


P = TypeVar("P", bound=Searchable)


def glob(path: P, pattern: str) -> Iterator[P]:
    """Yield the files below `path` that match. Raises ValueError, NotImplementedError for a bad pattern."""
    pure = PurePosixPath(pattern)
    if pure.is_absolute():
        raise NotImplementedError("Non-relative patterns are unsupported")
    if not pure.parts:
        raise ValueError(f"Unacceptable pattern: {pattern!r}")
    names = [*pure.parts, *([""] if pattern.endswith("/") else [])]
    found = _select(path, names)
    if names.count("**") > 1:  # a file may match in several ways
        return iter(dict.fromkeys(found))
    return found


def _select(path: P, names: list[str]) -> Iterator[P]:
    """Yield the files below `path`, which exists, that match names or patterns; an empty one matches directories."""
    if not names or names == [""]:
        if not names or path.is_dir():
            yield path
        return
    first, rest = names[0], names[1:]
    if not path.is_dir():
        return
    if first == "**":
        for each in path.below(directories=bool(rest)):
            yield from _select(each, rest)
    elif _MAGIC.search(first):
        matches = re.compile(translate(first)).match
        for each in path.iterdir():
            if matches(each.name):
                yield from _select(each, rest)
    elif (path / first).exists(follow_symlinks=False):
        yield from _select(path / first, rest)
