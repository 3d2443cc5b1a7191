"""Read many files in data order: each span is decoded once, and holes are not expanded.

Files come in the order in which the layers store them, not in the order of their names.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator

from ocifs.image.readahead import read_ahead, take
from ocifs.image.rootfs import Rootfs

ContentPart = memoryview | int
"""Bytes, or the length of a hole in bytes."""

_NID_BITS = 48
_BLOCK = 1 << 16
_ZEROS = bytes(_BLOCK)


def in_data_order(rootfs: Rootfs, nids: Iterable[int]) -> list[int]:
    """Return regular files sorted by the position of their bytes in the layers."""
    return [
        address & ((1 << _NID_BITS) - 1) for address in sorted(_address(rootfs, nid) << _NID_BITS | nid for nid in nids)
    ]


def _address(rootfs: Rootfs, nid: int) -> int:
    return first_address(rootfs, (address for address, _ in _extents(rootfs, nid) if address is not None))


def first_address(rootfs: Rootfs, addresses: Iterable[int]) -> int:
    """Return the first of a file's `addresses` that is in a layer, which orders files by their data; else 0."""
    layers = rootfs.tree.bases[0] if rootfs.tree.bases else 0
    return next((address for address in addresses if address >= layers), 0)


def read_files(rootfs: Rootfs, nids: Iterable[int]) -> Iterator[tuple[int, Iterator[ContentPart]]]:
    """Yield (nid, its bytes in parts) of regular files, in data order.

    Parts have at most 8 MiB, holes any length. The caller need not read all parts of a file; the next file skips the
    rest.

    Raises:
        InvalidImageError: A span fails its verification.
        OSError: A blob cannot be read.
    """
    ordered = in_data_order(rootfs, nids)
    data = read_ahead(rootfs.served, (piece for nid in ordered for piece in _stored(rootfs, nid)))
    try:
        for nid in ordered:
            parts = _parts(rootfs, nid, data)
            yield nid, parts
            for _ in parts:
                pass
    finally:
        data.close()


def _extents(rootfs: Rootfs, nid: int) -> list[tuple[int | None, int]]:
    return rootfs.tree.extents_of(rootfs.tree.inode(nid))


def _stored(rootfs: Rootfs, nid: int) -> Iterator[tuple[int, int]]:
    return ((address, size) for address, size in _extents(rootfs, nid) if address is not None)


def _parts(rootfs: Rootfs, nid: int, data: Iterator[memoryview]) -> Iterator[ContentPart]:
    for address, size in _extents(rootfs, nid):
        if address is None:
            yield size
        else:
            yield from take(data, size)


def advancing(total: int, progress: Callable[[int, int], None] | None) -> Callable[[int], None]:
    """Return a function that adds to the bytes read, and calls `progress` with (bytes read, `total`)."""
    at = 0

    def advance(size: int) -> None:
        nonlocal at
        at += size
        if progress:
            progress(at, total)

    return advance


def digests(rootfs: Rootfs, nids: Iterable[int], done: Callable[[int], None] = lambda size: None) -> dict[int, bytes]:
    """Return a digest of each regular file, equal for two files if and only if sizes and bytes are equal.

    It is not a plain sha256, so that holes cost nothing and stored zeros equal a hole. `done` gets the number of bytes
    read.

    Raises the errors of `read_files`.
    """
    found = {}
    for nid, parts in read_files(rootfs, nids):
        digest = _ContentDigest()
        for part in parts:
            if isinstance(part, int):
                digest.hole(part)
            else:
                digest.data(part)
                done(len(part))
        found[nid] = digest.finish()
    return found


class _ContentDigest:
    """Hashes the size, and the blocks that are not all zero with their offsets."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._size = 0
        self._block = bytearray()
        """The beginning of a block."""

    def hole(self, size: int) -> None:
        """Add `size` zeros."""
        filling = min(size, -self._size % _BLOCK)
        self.data(bytes(filling))
        rest = (size - filling) % _BLOCK
        self._size += size - filling - rest
        self.data(bytes(rest))

    def data(self, part: bytes | memoryview) -> None:
        """Add bytes."""
        view = memoryview(part)
        while view:
            room = _BLOCK - len(self._block)
            piece, view = view[:room], view[room:]
            self._size += len(piece)
            if len(piece) == _BLOCK:
                self._take(piece)
                continue
            self._block += piece
            if len(self._block) == _BLOCK:
                self._take(self._block)
                self._block.clear()

    def finish(self) -> bytes:
        """Return the digest of all added bytes."""
        if self._block:
            self._take(self._block)
        self._hash.update(self._size.to_bytes(8, "little"))
        return self._hash.digest()

    def _take(self, block: bytearray | memoryview) -> None:
        """Hash a block that ends at the current size."""
        if bytes(block) != _ZEROS[: len(block)]:
            self._hash.update((self._size - len(block)).to_bytes(8, "little"))
            self._hash.update(block)
