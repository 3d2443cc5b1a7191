"""What the bytes of files are, for whoever writes all of them: where they lie, and themselves, decoded ahead."""

import stat
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import NamedTuple

from ocifs.erofs.reader import Inode
from ocifs.errors import OcifsError
from ocifs.image.ahead import read_ahead
from ocifs.image.rootfs import Rootfs

Progress = Callable[[int, int], None]
"""Is told (bytes written, bytes in all)."""


class Data(NamedTuple):
    """Bytes of a file that are stored in one place; what lies between such pieces is a hole."""

    offset: int
    """In the file."""
    address: int
    """In the served file."""
    size: int


def directory_at(rootfs: Rootfs, path: str) -> int:
    """Return the nid of the directory at `path`. Raises NotFoundError where there is none."""
    return rootfs.lookup(path.rstrip("/") + "/")


def data_of(rootfs: Rootfs, inode: Inode) -> list[Data]:
    """Return where a file's bytes are, in their order; nothing for what is no regular file."""
    pieces = []
    offset = 0
    if stat.S_ISREG(inode.mode):
        for address, size in rootfs.tree.extents_of(inode):
            if address is not None:
                pieces.append(Data(offset, address, size))
            offset += size
    return pieces


def place_of(rootfs: Rootfs, data: list[Data]) -> int:
    """Return a number by which to order files so that the layers' tar streams are read from front to end."""
    layers = rootfs.tree.bases[0] if rootfs.tree.bases else 0
    return next((piece.address for piece in data if piece.address >= layers), 0)


def contents(rootfs: Rootfs, pieces: Iterable[Data]) -> Generator[memoryview, None, None]:
    """Give the bytes of one piece after the other, in parts that lie in one piece each.

    Raises:
        OcifsError: They cannot be read, or not be proven.
    """
    try:
        yield from read_ahead(rootfs.served, ((piece.address, piece.size) for piece in pieces))
    except OSError as error:
        raise OcifsError(f"the image cannot be read: {error.strerror}") from error


def take(parts: Iterator[memoryview], size: int) -> Iterator[memoryview]:
    """Give the next parts, `size` bytes in all."""
    while size:
        part = next(parts)
        size -= len(part)
        yield part
