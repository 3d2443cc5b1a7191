"""Trees written as literals, and the file that would be served for them."""

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from ocifs.erofs.format import layer_bases, served_size
from ocifs.erofs.reader import TreeImage
from ocifs.erofs.writer import compile_tree
from ocifs.tree.node import Extent, Node


def directory(children: Mapping[bytes, Node] | None = None, mode: int = 0o755) -> Node:
    node = Node(stat.S_IFDIR | mode)
    node.children = dict(children or {})
    return node


def file(size: int = 0, extent: Extent | None = None, mode: int = 0o644) -> Node:
    node = Node(stat.S_IFREG | mode)
    node.size = size
    node.extent = extent
    return node


def stored(size: int, offset: int, layer: int = 0) -> Node:
    return file(size, Extent(layer, offset, size))


def sparse(size: int, offset: int, *pieces: tuple[int, int]) -> Node:
    return file(size, Extent(0, offset, sum(length for _, length in pieces), pieces))


def symlink(target: bytes) -> Node:
    node = Node(stat.S_IFLNK | 0o777)
    node.target = target
    return node


def special(kind: int, major: int = 0, minor: int = 0) -> Node:
    node = Node(kind | 0o600)
    node.rdev = (major, minor)
    return node


def with_xattrs(node: Node, xattrs: Mapping[bytes, bytes]) -> Node:
    node.xattrs = dict(xattrs)
    return node


class Layers:
    """Layers in memory, and how the writer and a reader see them."""

    def __init__(self, *layers: bytes) -> None:
        self.layers = layers
        self.sizes = [len(layer) for layer in layers]

    def read(self, layer: int, size: int, offset: int) -> bytes:
        return self.layers[layer][offset : offset + size]

    def compile(self, root: Node) -> TreeImage:
        return TreeImage(compile_tree(root, self.sizes, self.read), self.sizes)

    def content(self, image: TreeImage, nid: int, data: bytes) -> bytes:
        """Return a file's bytes, put together from its extents; `data` is the tree image."""
        parts = []
        for address, length in image.extents(nid, 0, image.inode(nid).size):
            if address is None:
                part = bytes(length)
            elif (place := image.layer_of(address)) is None:
                part = data[address : address + length]
            else:
                part = self.read(place[0], length, place[1])
            assert len(part) == length
            parts.append(part)
        return b"".join(parts)

    def serve(self, data: bytes, path: Path) -> None:
        """Write the served file, with holes between the layers."""
        with path.open("wb") as served:
            served.write(data)
            for base, layer in zip(layer_bases(len(data), self.sizes), self.layers, strict=True):
                served.seek(base)
                served.write(layer)
            os.ftruncate(served.fileno(), served_size(len(data), self.sizes))


def paths(root: Node) -> dict[bytes, Node]:
    """Return every path with its node, without the writer's help."""
    found = {b"": root}
    pending: list[tuple[bytes, Node]] = [(b"", root)]
    while pending:
        prefix, node = pending.pop()
        for name, child in (node.children or {}).items():
            found[prefix + name] = child
            if child.children is not None:
                pending.append((prefix + name + b"/", child))
    return found


def names_of(root: Node) -> dict[int, int]:
    """Return how many names each node has, by identity."""
    count: dict[int, int] = {}
    for node in paths(root).values():
        count[id(node)] = count.get(id(node), 0) + 1
    return count


def expected_content(node: Node, layers: Sequence[bytes]) -> bytes:
    """Return a regular file's bytes as its extent says, piece by piece."""
    content = bytearray(node.size)
    if node.extent:
        position = node.extent.offset
        for start, length in node.extent.sparse if node.extent.sparse is not None else ((0, node.size),):
            content[start : start + length] = layers[node.extent.layer][position : position + length]
            position += length
    return bytes(content)
