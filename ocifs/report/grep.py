"""Search files for lines that match a pattern, like grep(1): on bytes, with detection of binary files.

Memory does not grow with files or lines. Files come in the order of the layers, so that each span is decoded once; the
names of a hard-linked file come one after the other.
"""

import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from ocifs.image.contents import ContentPart, read_files
from ocifs.image.rootfs import Rootfs
from ocifs.report.listing import named
from ocifs.report.pattern import Pattern
from ocifs.report.selected_lines import EVERY, Context, FoundLine, Selection, select_lines

_BEGINNING = 1 << 15
"""Bytes at the start of a file that are checked for NUL, which marks it as binary."""
_HOLE = bytes(_BEGINNING)
"""The part of a hole that is searched: no pattern needs more zeros."""

Progress = Callable[[int, int], None]
_Globs = Sequence[Callable[[str], object]]


class FileNames(NamedTuple):
    """Which files to search, by globs for their names. No glob for `include` means all."""

    include: Sequence[str] = ()
    """A file that is itself one of the paths need not match."""
    exclude: Sequence[str] = ()
    exclude_directories: Sequence[str] = ()
    """Directories below the paths to skip."""


_ALL = FileNames()


class Searched(msgspec.Struct, frozen=True):
    """A file with its matches; consume `matches` before the next file."""

    path: bytes
    binary: bool
    matches: Iterator[FoundLine]
    named: bool = False
    """Whether it is one of the paths to search itself, and not below one."""


def grep(
    rootfs: Rootfs,
    paths: Sequence[bytes],
    pattern: Pattern,
    files: FileNames = _ALL,
    selection: Selection = EVERY,
    progress: Progress | None = None,
) -> Iterator[Searched]:
    """Yield each regular file at and below `paths` that is to be searched, with its selected lines.

    Symlinks are followed at `paths` only, like `grep -r`. `progress` receives (bytes read, bytes in total).

    Raises:
        NotFoundError: One of the paths does not exist.
        InvalidImageError: A span does not verify.
        OSError: A blob cannot be read.
    """
    names: dict[int, list[bytes]] = {}
    for path, nid in _files(rootfs, paths, *map(_globs, files)):
        names.setdefault(nid, []).append(path)
    reading = _Reading(rootfs, names, progress) if progress else None
    for own in names.values():
        own.reverse()
    for nid, parts in read_files(rootfs, (nid for nid, own in names.items() for _ in own)):
        given = _bytes(parts, reading)
        first = next(given, b"")
        while len(first) < _BEGINNING and (more := next(given, b"")):
            first += more
        path = names[nid].pop()
        binary = b"\0" in first[:_BEGINNING] and pattern.end != b"\0"
        yield Searched(path, binary, select_lines(pattern, first, given, selection), path in paths)
        if reading:
            reading.ends(nid)


def _files(
    rootfs: Rootfs, paths: Sequence[bytes], include: _Globs, exclude: _Globs, excluded_directories: _Globs
) -> Iterator[tuple[bytes, int]]:
    for path in paths:
        prefix = path if path.endswith(b"/") else path + b"/"
        leave_out = False
        for below, nid in rootfs.tree.walk(rootfs.lookup(path), lambda: leave_out):  # noqa: B023 - called in the loop
            name = os.fsdecode((below or path.rstrip(b"/")).rpartition(b"/")[2])
            mode = rootfs.tree.inode(nid).mode
            leave_out = bool(below) and stat.S_ISDIR(mode) and _fits(name, excluded_directories)
            wanted = not (below and include) or _fits(name, include)
            if stat.S_ISREG(mode) and wanted and not _fits(name, exclude):
                yield prefix + below if below else path, nid


def _globs(globs: Sequence[str]) -> _Globs:
    return [re.compile(fnmatch.translate(glob)).match for glob in globs]


def _fits(name: str, globs: _Globs) -> bool:
    return any(fits(name) for fits in globs)


class _Reading:
    """The progress, in bytes. A file that is not read to its end counts as read."""

    def __init__(self, rootfs: Rootfs, names: Mapping[int, Sequence[bytes]], progress: Progress) -> None:
        self._sizes = {
            nid: sum(size for address, size in rootfs.tree.extents_of(rootfs.tree.inode(nid)) if address is not None)
            for nid in names
        }
        self._total = sum(size * len(names[nid]) for nid, size in self._sizes.items())
        self._before = 0
        self._read = 0
        self._progress = progress

    def goes_on(self, size: int) -> None:
        self._read += size
        self._progress(self._read, self._total)

    def ends(self, nid: int) -> None:
        self._read = self._before = self._before + self._sizes[nid]
        self._progress(self._read, self._total)


def _bytes(parts: Iterable[ContentPart], reading: _Reading | None) -> Iterator[bytes]:
    for part in parts:
        if isinstance(part, int):
            yield _HOLE[:part]
        else:
            if reading:
                reading.goes_on(len(part))
            yield bytes(part)


def to_json(path: bytes, match: FoundLine | None = None, **more: int | bool) -> bytes:
    """Return a JSON object on one line: a file, and a selected line, a line around one, or another fact about it."""
    line = {} if match is None else {"line_number": match.number} | named("line", match.line)
    context = {"context": True} if isinstance(match, Context) else {}
    return msgspec.json.encode(named("path", path) | line | context | more)
