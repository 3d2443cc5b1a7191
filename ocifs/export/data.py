"""File data for an exporter that reads all of it: the extents of files, and their bytes, decoded ahead."""

import stat
from collections.abc import Callable, Generator, Iterable
from typing import NamedTuple

from ocifs.erofs.reader import Inode
from ocifs.errors import OcifsError
from ocifs.image.contents import first_address
from ocifs.image.readahead import read_ahead
from ocifs.image.rootfs import Rootfs

Progress = Callable[[int, int], None]
"""Called with (bytes written, total bytes)."""


class Data(NamedTuple):
    """Bytes of a file that are stored contiguously; the gaps between pieces are holes."""

    offset: int
    """Offset in the file."""
    address: int
    """Address in the served file."""
    size: int


def directory_at(rootfs: Rootfs, path: str) -> int:
    """Return the nid of the directory at `path`. Raises NotFoundError if it is not one."""
    return rootfs.lookup(path.rstrip("/") + "/")


def data_of(rootfs: Rootfs, inode: Inode) -> list[Data]:
    """Return the pieces of a regular file in order; empty for other files."""
    pieces = []
    offset = 0
    if stat.S_ISREG(inode.mode):
        for address, size in rootfs.tree.extents_of(inode):
            if address is not None:
                pieces.append(Data(offset, address, size))
            offset += size
    return pieces


def place_of(rootfs: Rootfs, data: list[Data]) -> int:
    """Return a sort key that orders files by their position in the layers' tar streams."""
    return first_address(rootfs, (piece.address for piece in data))


def contents(rootfs: Rootfs, pieces: Iterable[Data]) -> Generator[memoryview, None, None]:
    """Yield the bytes of all pieces in order; each part belongs to one piece.

    Raises:
        OcifsError: They cannot be read or do not verify.
    """
    try:
        yield from read_ahead(rootfs.served, ((piece.address, piece.size) for piece in pieces))
    except OSError as error:
        raise OcifsError(f"the image cannot be read: {error.strerror}") from error
