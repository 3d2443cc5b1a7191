"""Resolve paths in a tree image: symlinks are followed inside it (path_resolution(7))."""

import errno
import os
import stat

from ocifs.erofs.reader import TreeImage
from ocifs.errors import NotFoundError, printable

MAX_SYMLINKS = 40
"""Maximum symlinks followed in one lookup, as in Linux."""


class PathError(NotFoundError):
    """A path that cannot be resolved, with the errno that a system call would fail with."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.errno = number


def lookup(tree: TreeImage, path: bytes, *, follow: bool = True) -> int:
    """Return the nid at `path`, relative to the root; `follow` a symlink at its end.

    Raises:
        PathError: The path does not exist, or has too many symlinks.
    """
    chain, names, rest = resolve(tree, path, follow=follow)
    if rest:
        parent = printable(b"/" + b"/".join(names))
        if not _is_directory(tree, chain[-1]):
            raise PathError(f"{printable(path)}: {os.strerror(errno.ENOTDIR)}: {parent}", errno.ENOTDIR)
        raise PathError(
            f"{printable(path)}: no such file or directory in the image: its nearest parent is {parent}", errno.ENOENT
        )
    return chain[-1]


def resolve(tree: TreeImage, path: bytes, *, follow: bool) -> tuple[list[int], list[bytes], list[bytes]]:
    """Resolve a path as far as it exists: (nids from the root, names below the root, remaining names).

    Raises:
        PathError: The path has too many symlinks.
    """
    pending = _split(path)[::-1]
    chain = [tree.root]
    names: list[bytes] = []
    links = 0
    while pending:
        name = pending.pop()
        if not _is_directory(tree, chain[-1]):
            return chain, names, [name, *reversed(pending)]
        if name in {b".", b".."}:
            if name == b".." and names:
                del chain[-1], names[-1]
            continue
        nid = tree.lookup(chain[-1], name)
        if nid is None:
            return chain, names, [name, *reversed(pending)]
        if stat.S_ISLNK(tree.inode(nid).mode) and (follow or pending):
            links += 1
            if links > MAX_SYMLINKS:
                raise PathError(f"{printable(path)}: {os.strerror(errno.ELOOP)}", errno.ELOOP)
            target = tree.readlink(nid)
            if target.startswith(b"/"):
                del chain[1:], names[:]
            pending += _split(target)[::-1]
        else:
            chain.append(nid)
            names.append(name)
    return chain, names, []


def _is_directory(tree: TreeImage, nid: int) -> bool:
    return stat.S_ISDIR(tree.inode(nid).mode)


def _split(path: bytes) -> list[bytes]:
    """Split a path into names; a slash at the end requires a directory, like `.`."""
    names = [name for name in path.split(b"/") if name]
    return [*names, b"."] if path.endswith(b"/") else names
