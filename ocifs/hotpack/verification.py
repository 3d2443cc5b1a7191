"""Verify a hot pack: compare its file with its head, and its blocks with the layers that it was made of."""

import hashlib
from collections.abc import Callable, Collection, Sequence

from ocifs.compression import MAX_SPAN
from ocifs.errors import InvalidImageError
from ocifs.hotpack.format import Block, PackTable
from ocifs.layer.layer import Layer
from ocifs.layer.span_cache import SpanCache
from ocifs.reader import ReaderAt


def verify_frames(file: ReaderAt, table: PackTable) -> None:
    """Check that each frame in the file decodes to its blocks.

    Raises:
        InvalidImageError: A frame is damaged.
        OSError: It cannot be read.
    """
    for number, frame in enumerate(table.frames):
        if frame.decode(file.pread(frame.stored, frame.offset)) is None:
            raise InvalidImageError(f"hot pack: frame {number} is damaged")


def blocks_of(table: PackTable) -> frozenset[Block]:
    """Return the blocks of a pack."""
    return frozenset(block for frame in table.frames for block in frame.blocks)


def verify_pack(
    table: PackTable, layers: Sequence[Layer], pause: Callable[[int], None], verified: Collection[Block] = frozenset()
) -> None:
    """Check that each block has the bytes of its layer; `pause` is called between blocks, and may raise.

    A reader only gets bytes that have the digest of their block, so the digests are compared. The blocks `verified`
    were compared before.

    Raises:
        InvalidImageError: A block has other bytes.
        NotFoundError, RegistryError: Parts of a layer cannot be fetched.
    """
    blocks = sorted(blocks_of(table).difference(verified), key=lambda each: (each.layer, each.offset))
    cache = SpanCache(4 * MAX_SPAN)  # leave the mount's own cache to its readers
    copies = [Layer(each.number, each.index, each.blob, cache) for each in layers]
    for block in blocks:
        if hashlib.sha256(copies[block.layer].pread(block.size, block.offset)).digest() != block.digest:
            raise InvalidImageError(
                f"hot pack: bytes {block.offset}..{block.end} differ from those of layer "
                f"{layers[block.layer].index.summary.diff_id}"
            )
        pause(0)
