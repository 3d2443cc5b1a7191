"""Write the tar-split of a layer, from which podman reassembles its exact tar, as for a push.

Each file of the layer's changes that lies in its tar stream becomes a content entry, under the path that podman finds
it at. All other bytes stay raw: headers, files that a later entry of the layer replaces, sparse files.
"""

from collections.abc import Iterable, Iterator
from stat import S_ISREG

from ocifs.erofs.reader import Inode
from ocifs.imagestore.directory import StoreDirectory
from ocifs.imagestore.tree import StoreTree, stream_key
from ocifs.layer.layer import Layer
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.tarsplit.entries import encode
from ocifs.tarsplit.stream import MemberRange, disassemble

MAX_RAW = 4 << 30
"""Bytes of a layer's tar stream that its tar-split may have, before compression."""


def is_complete(layer: Layer) -> bool:
    """Whether all bytes of a layer are on this machine, and verified."""
    return layer.verification.is_verified and not isinstance(layer.blob, LazyBlob)


def write_tar_split(directory: StoreDirectory, identity: str, layer: Layer, tree: StoreTree) -> None:
    """Write the tar-split of the layer `identity`. Reads all of the layer.

    Raises:
        InvalidImageError: A span of the layer is damaged.
        LimitError: More than `MAX_RAW` bytes would have to stay raw.
        MissingExtraError: The package for checksums is not installed.
        StoreError: It cannot be written.
    """

    def pieces() -> Iterable[bytes]:
        return encode(disassemble(layer.stream(), _files(identity, layer, tree), MAX_RAW))

    directory.write_tar_split(identity, pieces)


def _files(identity: str, layer: Layer, tree: StoreTree) -> list[MemberRange]:
    """Return the files in the layer's directory that lie in its own tar stream in one piece, by their offsets."""
    image = tree.rootfs.tree
    key = stream_key(layer)
    number = next(each.number for each in tree.rootfs.served.layers if stream_key(each) == key)
    found: dict[int, MemberRange] = {}
    for name, inode in _regular(identity, tree):
        extents = image.extents_of(inode)
        address, size = extents[0]
        location = None if len(extents) > 1 or address is None else image.layer_of(address)
        if location is not None and location[0] == number:
            found.setdefault(location[1], MemberRange(location[1], size, name))
    return [found[offset] for offset in sorted(found)]


def _regular(identity: str, tree: StoreTree) -> Iterator[tuple[bytes, Inode]]:
    for name, inode in tree.rootfs.walk(f"/{identity}/diff"):
        if S_ISREG(inode.mode) and inode.size:
            yield name, inode
