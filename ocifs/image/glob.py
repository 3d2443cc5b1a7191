r"""Expand patterns over the names in a rootfs, as a shell does.

    *  ?  [abc]  [!a-z]   within one name; a dot at its beginning must be written
    **                    directories at any depth, without following symlinks
    \                     in front of `*?[`: the character itself

Symlinks in other parts of the path lead within the image. Names are matched as text, so that `?` stands for one
character of UTF-8; any other byte is a character of its own.
"""

import fnmatch
import os
import re
import stat
from collections.abc import Iterator, Sequence

from ocifs.errors import NotFoundError, printable
from ocifs.image.rootfs import Rootfs

_SPECIAL = re.compile(rb"[*?\[]")
_QUOTED = re.compile(r"\\([*?\[])")
_DEEP = b"**"


def expand(rootfs: Rootfs, patterns: Sequence[bytes]) -> list[bytes]:
    """Return the paths that each pattern stands for; a path without `*?[`, or with exactly that name, is itself.

    Raises:
        NotFoundError: Nothing matches a pattern.
    """
    return [path for pattern in patterns for path in _expand(rootfs, pattern)]


def _expand(rootfs: Rootfs, pattern: bytes) -> list[bytes]:
    if not _SPECIAL.search(pattern) or _nid(rootfs, pattern, follow=False) is not None:
        return [pattern]
    if found := list(glob(rootfs, pattern)):
        return found
    raise NotFoundError(f"{printable(pattern)}: no file in the image matches")


def glob(rootfs: Rootfs, pattern: bytes) -> Iterator[bytes]:
    """Yield each path that matches, once; directories in the order of a walk, names in the order of bytes."""
    names: list[bytes] = []
    for name in pattern.split(b"/"):
        if name != _DEEP or names[-1:] != [_DEEP]:
            names.append(name)
    if names[-1] == _DEEP:
        names.append(b"*")
    several = names.count(_DEEP) > 1  # then different ways lead to a path
    found = _below(rootfs, b"", names)
    return iter(dict.fromkeys(found)) if several else found


def _below(rootfs: Rootfs, prefix: bytes, names: Sequence[bytes]) -> Iterator[bytes]:
    """Yield what matches `names` below the directory `prefix`, which is empty or ends with a slash."""
    name, rest = names[0], names[1:]
    if name == _DEEP:
        for directory in _directories(rootfs, prefix):
            yield from _below(rootfs, directory, rest)
    elif _SPECIAL.search(name):
        for found in _named(rootfs, prefix, name):
            yield from _below(rootfs, prefix + found + b"/", rest) if rest else [prefix + found]
    elif rest:
        yield from _below(rootfs, prefix + name + b"/", rest)
    elif _nid(rootfs, prefix + name, follow=False) is not None:
        yield prefix + name


def _named(rootfs: Rootfs, prefix: bytes, pattern: bytes) -> Iterator[bytes]:
    """Yield the names in a directory that match; none if it is not a directory."""
    nid = _nid(rootfs, prefix)
    if nid is None:
        return
    quoted = _QUOTED.sub(r"[\1]", os.fsdecode(pattern)).replace("[^", "[!")
    matches = re.compile(fnmatch.translate(quoted)).match
    dotted = pattern.startswith(b".")
    for name, *_ in rootfs.tree.entries(nid):
        if name.startswith(b".") == dotted and matches(os.fsdecode(name)):
            yield name


def _directories(rootfs: Rootfs, prefix: bytes) -> Iterator[bytes]:
    """Yield a directory and all below it whose names begin with no dot, each with a slash at the end."""
    nid = _nid(rootfs, prefix)
    if nid is None:
        return
    skip = False
    for below, child in rootfs.tree.walk(nid, lambda: skip):  # noqa: B023 - called in the loop
        skip = below.rpartition(b"/")[2].startswith(b".")
        if not skip and stat.S_ISDIR(rootfs.tree.inode(child).mode):
            yield prefix + below + b"/" if below else prefix


def _nid(rootfs: Rootfs, path: bytes, *, follow: bool = True) -> int | None:
    try:
        return rootfs.lookup(path, follow=follow)
    except NotFoundError:
        return None
