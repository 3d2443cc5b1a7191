"""Write a rootfs as one EROFS file for the kernel to mount.

The tree image is compiled again for a single layer that holds only file data: each file starts at a block, in the order
of the image's layers. That layer follows the tree image. The file has the form of the served file, without tar headers,
without data that upper layers hide, and without files outside `path`.
"""

import os
import stat
from bisect import bisect_right
from contextlib import closing

from ocifs.erofs.format import BLOCK, layer_bases, round_up, served_size
from ocifs.erofs.reader import Inode
from ocifs.erofs.writer import compile_tree
from ocifs.errors import InvalidImageError
from ocifs.export.data import Data, Progress, contents, data_of, directory_at, place_of
from ocifs.export.losses import Losses
from ocifs.export.target import new_file
from ocifs.image.readahead import take
from ocifs.image.rootfs import Rootfs
from ocifs.tree.node import Extent, Node


def export_erofs(rootfs: Rootfs, path: str, target: str, *, progress: Progress | None = None) -> Losses:
    """Write the directory at `path` of the image, and everything below it, to the new EROFS file `target`.

    `target` may be an empty file. It appears complete, or not at all.

    Returns:
        No losses: EROFS can represent everything in an image.

    Raises:
        NotFoundError: `path` is not a directory of the image.
        LimitError: The files exceed 2 TiB, or a limit of the rootfs.
        OcifsError: The target exists, or cannot be written.
        InvalidImageError: A span does not verify.
    """
    nid = directory_at(rootfs, path)
    with new_file(target) as out:
        root, files = _tree(rootfs, nid)
        size = _place(files)
        sizes = [size] if size else []
        image = compile_tree(
            root, sizes, lambda layer, size, offset: _read(rootfs, files, size, offset), limits=rootfs.limits
        )
        if (whole := served_size(len(image), sizes)) > rootfs.limits.output:
            raise rootfs.limits.passed("output", f"an EROFS file of {whole} bytes")
        out.write(image)
        if sizes:
            out.seek(layer_bases(len(image), sizes)[0])
        with closing(contents(rootfs, (piece for file in files for piece in file.data))) as parts:
            for file in files:
                for part in take(parts, file.stored):
                    out.write(part)
                out.write(bytes(-file.stored % BLOCK))
                if progress:
                    progress(file.offset + file.stored, size)
        out.truncate(whole)
    return Losses()


class _File:
    """A file with data: its node, its pieces in the image, and its place in the single layer."""

    def __init__(self, place: int, node: Node, data: list[Data]) -> None:
        self.place = place
        self.node = node
        self.data = data
        self.stored = sum(piece.size for piece in data)
        self.offset = 0


def _tree(rootfs: Rootfs, nid: int) -> tuple[Node, list[_File]]:
    """Return the root of the exported tree, and its files with data, ordered by their place."""
    tree = rootfs.tree
    root = _node(rootfs, tree.inode(nid))
    linked: dict[int, Node] = {}
    files: list[_File] = []
    pending = [(nid, root)]
    directories = 0
    while pending:
        directory, parent = pending.pop()
        directories += 1
        if directories > tree.inode_count:
            raise InvalidImageError("tree image: directories form a loop: run `ocifs cache clear`")
        children = parent.children = {}
        for name, child, _ in tree.entries(directory):
            if child not in linked:
                inode = tree.inode(child)
                node = _node(rootfs, inode)
                if node.is_dir:
                    pending.append((child, node))
                elif data := data_of(rootfs, inode):
                    files.append(_File(place_of(rootfs, data), node, data))
                if inode.nlink > 1:
                    linked[child] = node
            children[name] = linked.get(child, node)
    files.sort(key=lambda file: file.place)
    return root, files


def _node(rootfs: Rootfs, inode: Inode) -> Node:
    node = Node(inode.mode, uid=inode.uid, gid=inode.gid, mtime_ns=inode.mtime_ns)
    node.size = inode.size
    node.rdev = os.major(inode.rdev), os.minor(inode.rdev)
    node.xattrs = rootfs.tree.xattrs(inode.nid)
    if stat.S_ISLNK(inode.mode):
        node.target = rootfs.readlink(inode.nid)
    return node


def _place(files: list[_File]) -> int:
    """Assign each file its place in the single layer, at a block boundary; return the total size."""
    end = 0
    for file in files:
        file.offset = end
        pieces = tuple((piece.offset, piece.size) for piece in file.data)
        file.node.extent = Extent(0, end, file.stored, None if file.stored == file.node.size else pieces)
        end = round_up(end + file.stored, BLOCK)
    return end


def _read(rootfs: Rootfs, files: list[_File], size: int, offset: int) -> bytes:
    """Return bytes of one file from the single layer; the writer copies pieces of sparse files into the tree image."""
    file = files[bisect_right(files, offset, key=lambda file: file.offset) - 1]
    offset -= file.offset
    parts = []
    for piece in file.data:
        length = min(size, piece.size - offset)
        if length > 0:
            parts.append(rootfs.served.pread(length, piece.address + offset))
            size -= length
        offset = max(0, offset - piece.size)
    return b"".join(parts)
