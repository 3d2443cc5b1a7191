"""A rootfs -> one EROFS file that holds all of it, for the kernel to mount.

The tree image is compiled anew, to what it would be if the image had one layer with nothing but the bytes of the files:
each from a block on, in the order in which they lie in the layers. That layer follows the tree image. So the file has
the form of the served file, without what only a tar stream needs, what upper layers hide, and what is not asked for.
"""

import os
import stat
from bisect import bisect_right
from contextlib import closing

from ocifs.erofs.format import BLOCK, layer_bases, round_up, served_size
from ocifs.erofs.reader import Inode
from ocifs.erofs.writer import compile_tree
from ocifs.errors import InvalidImageError
from ocifs.export.data import Data, Progress, contents, data_of, directory_at, place_of, take
from ocifs.export.losses import Losses
from ocifs.export.target import new_file
from ocifs.image.rootfs import Rootfs
from ocifs.tree.node import Extent, Node


def export_erofs(rootfs: Rootfs, path: str, target: str, *, progress: Progress | None = None) -> Losses:
    """Write the directory at `path` of the image, and all below it, as the new EROFS file `target`.

    `target` may be an empty file. It appears when it is whole, or not at all.

    Returns:
        Nothing lost: what the image has here is what EROFS can hold.

    Raises:
        NotFoundError: There is no directory at `path`.
        LimitError: There are more than 2 TiB of files, or more than the limits of the rootfs allow.
        OcifsError: The target is in the way, or cannot be written.
        InvalidImageError: Bytes cannot be proven to be those that were indexed.
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
    """A file with bytes: its node, where these lie in the image, and where they will in the one layer."""

    def __init__(self, place: int, node: Node, data: list[Data]) -> None:
        self.place = place
        self.node = node
        self.data = data
        self.stored = sum(piece.size for piece in data)
        self.offset = 0


def _tree(rootfs: Rootfs, nid: int) -> tuple[Node, list[_File]]:
    """Return the root of what is below a directory, and the files there that have bytes, in the order of these."""
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
            raise InvalidImageError("tree image: directories form a loop; build it again")
        children = parent.children = {}
        for name, child, _, _ in tree.readdir(directory):
            if name in {b".", b".."}:
                continue
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
    """Put each file's bytes after the other's, from a block on; return the size of all."""
    end = 0
    for file in files:
        file.offset = end
        pieces = tuple((piece.offset, piece.size) for piece in file.data)
        file.node.extent = Extent(0, end, file.stored, None if file.stored == file.node.size else pieces)
        end = round_up(end + file.stored, BLOCK)
    return end


def _read(rootfs: Rootfs, files: list[_File], size: int, offset: int) -> bytes:
    """Return bytes of the one layer, of one file: pieces of sparse ones are copied into the tree image."""
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
