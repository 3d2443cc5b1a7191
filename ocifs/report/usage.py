"""Disk usage for each directory and each layer, like du(1)."""

import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import msgspec

from ocifs.erofs.reader import Inode
from ocifs.image.rootfs import Rootfs
from ocifs.report.listing import Show, named


class Usage(msgspec.Struct, frozen=True):
    """A file or directory, including everything below it."""

    path: bytes
    depth: int
    layers: dict[int, int]
    """Bytes from each layer, including the directories themselves."""

    @property
    def size(self) -> int:
        """Total bytes."""
        return sum(self.layers.values())


def disk_usage(
    rootfs: Rootfs, path: bytes, *, apparent: bool, files: bool, seen: set[int] | None = None
) -> Iterator[Usage]:
    """Yield the directories at and below `path`, children before their parent, by name.

    A hard-linked file counts once, at its first name. Sizes are whole blocks of 512 bytes as on a mount, holes
    included, or with `apparent` the file sizes. With `files`, other files are yielded as well; the file at `path`
    always is. `seen` has the nids of directories and hard-linked files that already count, and gets those of this path:
    with one set for several paths, nothing counts twice.

    Raises:
        NotFoundError: `path` does not exist.
    """
    seen = set() if seen is None else seen
    above: list[Usage] = []
    """The directories above the current file."""
    prefix = path if path.endswith(b"/") else path + b"/"
    for below, inode in _unseen(rootfs, rootfs.lookup(path, follow=False), seen):
        depth = below.count(b"/") + 1 if below else 0
        while len(above) > depth:
            yield _close(above)
        size = inode.size if apparent else inode.blocks * 512
        if stat.S_ISDIR(inode.mode):
            above.append(Usage(prefix + below if below else path, depth, {inode.layer: size}))
            continue
        if above:
            layers = above[-1].layers
            layers[inode.layer] = layers.get(inode.layer, 0) + size
        if files or not depth:
            yield Usage(prefix + below if below else path, depth, {inode.layer: size})
    while above:
        yield _close(above)


def _unseen(rootfs: Rootfs, start: int, seen: set[int]) -> Iterator[tuple[bytes, Inode]]:
    """Walk over what is not in `seen`, and add directories and hard-linked files to it."""
    skip = False
    for below, nid in rootfs.tree.walk(start, lambda: skip):  # noqa: B023 - called in the loop
        inode = rootfs.tree.inode(nid)
        several = stat.S_ISDIR(inode.mode) or inode.nlink > 1
        skip = several and nid in seen
        if not skip:
            if several:
                seen.add(nid)
            yield below, inode


def _close(above: list[Usage]) -> Usage:
    """Pop the innermost directory, and add it to its parent."""
    done = above.pop()
    if above:
        layers = above[-1].layers
        for layer, size in done.layers.items():
            layers[layer] = layers.get(layer, 0) + size
    return done


def usage_lines(usage: Usage, show: Show, size: Callable[[int], str], *, by_layer: bool) -> Iterator[bytes]:
    """Yield the line of du(1), or one line for each layer with a share; `size` formats bytes."""
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


def total(usages: Sequence[Usage]) -> Usage:
    """Return the sum of the files and directories at depth 0, under the name `total`."""
    layers: Counter[int] = Counter()
    for usage in usages:
        layers.update(usage.layers)
    return Usage(b"total", 0, dict(layers))
