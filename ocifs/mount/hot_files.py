"""The page cache of the fuse engine: when a file is opened, its pages in the hot pack are stored there.

A page that a reader waits for is locked, and storing it waits for that read. So the pages of a file are stored only
once, before the answer to its first open, when no process can read it yet. Only blocks that another thread has decoded
by then are stored.
"""

from collections.abc import Callable, Iterable

from ocifs.hotpack.format import PAGE
from ocifs.image.rootfs import Rootfs

_FILE_MAX = 8 << 20
"""Bytes of a file from its start; storing them takes a few milliseconds, in which nothing else is served."""
_FILES_MAX = 16 << 10
"""Files whose pages are stored: the pages of a pack of 64 MiB are of no more files."""


class HotFiles:
    """Up to `most` files of a rootfs whose hot bytes `store_pages(inode, offset, data)` puts into the page cache."""

    def __init__(self, rootfs: Rootfs, store_pages: Callable[[int, int, bytes], None], most: int = _FILES_MAX) -> None:
        self._rootfs = rootfs
        self._most = most
        self._store_pages = store_pages
        self._stored: set[int] = set()

    def store(self, inode: int, nid: int) -> None:
        """Store the pages of a file that is about to be opened, unless it was open before."""
        pack = self._rootfs.served.pack
        if pack is None or not pack.is_open() or inode in self._stored or len(self._stored) >= self._most:
            return
        self._stored.add(inode)
        size = self._rootfs.tree.inode(nid).size
        try:
            for begin, data in self._pieces(nid, size):
                first = -begin % PAGE
                last = len(data) if begin + len(data) == size else len(data) - (begin + len(data)) % PAGE
                if first < last:
                    self._store_pages(inode, begin + first, data[first:last])
        except OSError:  # the kernel has no such inode any more, or no memory
            return

    def _pieces(self, nid: int, size: int) -> Iterable[tuple[int, bytes]]:
        """Yield (offset, bytes) of the decoded parts of a file, joined where they meet."""
        served = self._rootfs.served
        assert served.pack is not None  # noqa: S101 - checked by the caller
        offset = 0
        start, parts, held = 0, list[memoryview](), 0
        for address, length in self._rootfs.tree.extents(nid, 0, min(size, _FILE_MAX)):
            found = None if address is None else served.layer_at(address)
            if found is not None and found[0].verification.refuted is None:
                layer, begin = found
                for place, data in served.pack.pieces_at_hand(layer.number, begin, begin + length):
                    at = offset + place - begin
                    if at != start + held:
                        yield start, b"".join(parts)
                        start, parts, held = at, [], 0
                    parts.append(data)
                    held += len(data)
            offset += length
        yield start, b"".join(parts)
