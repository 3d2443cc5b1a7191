"""What files take, added up for each directory and each layer, in the manner of du(1)."""

import stat
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from ocifs.erofs.reader import Inode
from ocifs.image.rootfs import Rootfs
from ocifs.report.listing import Show, named


class Usage(msgspec.Struct, frozen=True):
    """A file or directory, with all below it."""

    path: bytes
    depth: int
    layers: dict[int, int]
    """Bytes of what is from each layer, directories themselves included."""
    is_directory: bool

    @property
    def size(self) -> int:
        """All bytes."""
        return sum(self.layers.values())


def disk_usage(rootfs: Rootfs, path: bytes, *, apparent: bool) -> Iterator[Usage]:
    """Give the file at `path` and all below it, what is in a directory before the directory, and by name.

    A hard-linked file counts once, where it comes first. Bytes are those of the whole blocks of 512 that a mount
    reports, holes included, or `apparent`: the sizes.

    Raises:
        NotFoundError: There is nothing at `path`.
    """
    seen: set[int] = set()
    open_directories: list[tuple[bytes, Counter[int]]] = []
    for below, nid in rootfs.tree.walk(rootfs.lookup(path, follow=False)):
        depth = below.count(b"/") + 1 if below else 0
        while len(open_directories) > depth:
            yield _close(open_directories)
        inode = rootfs.tree.inode(nid)
        layers = Counter({inode.layer: _bytes(inode, apparent=apparent)})
        if inode.nlink > 1 and not stat.S_ISDIR(inode.mode):
            if nid in seen:
                continue
            seen.add(nid)
        full = path if not below else path + (b"" if path.endswith(b"/") else b"/") + below
        if stat.S_ISDIR(inode.mode):
            open_directories.append((full, layers))
        else:
            if open_directories:
                open_directories[-1][1].update(layers)
            yield Usage(full, depth, layers, is_directory=False)
    while open_directories:
        yield _close(open_directories)


def _close(open_directories: list[tuple[bytes, Counter[int]]]) -> Usage:
    """Take the innermost directory, and add it to the one above."""
    path, layers = open_directories.pop()
    if open_directories:
        open_directories[-1][1].update(layers)
    return Usage(path, len(open_directories), layers, is_directory=True)


def _bytes(inode: Inode, *, apparent: bool) -> int:
    return inode.size if apparent else inode.blocks * 512


def usage_lines(usage: Usage, show: Show, size: Callable[[int], str], *, by_layer: bool) -> Iterator[bytes]:
    """Give the line of du(1), or one for each layer that has a part; `size` writes bytes as text."""
    path = show(usage.path)
    if not by_layer:
        yield b"%b\t%b" % (size(usage.size).encode(), path)
        return
    for layer, part in sorted(usage.layers.items()):
        yield b"%b\t%d\t%b" % (size(part).encode(), layer, path)


def to_json(usage: Usage) -> bytes:
    """Return a JSON object on one line."""
    layers = [{"layer": layer, "size": part} for layer, part in sorted(usage.layers.items())]
    fields = named("path", usage.path) | {"size": usage.size, "depth": usage.depth, "layers": layers}
    return msgspec.json.encode(fields)
