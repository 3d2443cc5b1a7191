"""Sparse files as EROFS chunks: which chunks are holes, which lie in the tar stream, which ocifs must copy.

A file consists of chunks of one power-of-two size; a table has the address of each. The kernel can read a chunk from
the tar stream only if one stored piece covers all of it (or all up to the end of the file), block-aligned. Any other
chunk with stored bytes is *literal*: the writer assembles it from its pieces and stores it in the tree image. Small
chunks need a long table, large chunks many literal bytes; `cut` chooses the cheapest size. So a file of 256 GiB with a
few stored pages, such as /var/log/lastlog, costs a few MiB. This module knows nothing of inodes.
"""

import sys
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from ocifs.erofs.format import BLOCK, BLOCK_BITS, CHUNK_BITS_MASK, HOLE
from ocifs.errors import InvalidImageError, LimitError

MAX_TABLE = 16 << 20
MAX_LITERAL = 64 << 20


class Piece(NamedTuple):
    """Stored bytes `start` to `end` of a file, from offset `stream` of the layer's tar stream."""

    start: int
    end: int
    stream: int


class Chunks(NamedTuple):
    """The chunks of a sparse file."""

    size: int
    """Of the file, in bytes."""
    bits: int
    """log2 of the size of a chunk in bytes."""
    pieces: Sequence[Piece]
    literal: Sequence[int]
    """The chunks to copy, ascending."""

    @property
    def chunk_count(self) -> int:
        """The number of chunks."""
        return -(-self.size >> self.bits)

    @property
    def table_size(self) -> int:
        """Bytes of the table."""
        return 4 * self.chunk_count

    @property
    def literal_blocks(self) -> int:
        """Blocks of the literal chunks; only a chunk at the end of the file may be shorter than the others."""
        blocks = len(self.literal) << self.bits - BLOCK_BITS
        if self.literal and self.literal[-1] == self.chunk_count - 1:
            blocks -= ((self.chunk_count << self.bits) - self.size) // BLOCK
        return blocks


def pieces_of(size: int, stream: int, sparse: Iterable[tuple[int, int]]) -> list[Piece]:
    """Return the pieces of a file of `size` bytes, stored consecutively from offset `stream`.

    Raises `InvalidImageError` unless the pieces ascend without overlap within the file.
    """
    pieces: list[Piece] = []
    end = 0
    for start, length in sparse:
        if start < end or length < 0 or start + length > size:
            raise InvalidImageError(f"sparse piece of {length} bytes at {start} is out of order or outside the file")
        end = start + length
        if length:
            pieces.append(Piece(start, end, stream))
        stream += length
    return pieces


def cut(size: int, pieces: Sequence[Piece]) -> Chunks:
    """Choose the chunk size with the fewest bytes of table and literal chunks; of equal ones, the larger.

    Raises `LimitError` if at every size the table would exceed 16 MiB or the literal chunks 64 MiB.
    """
    best = -1
    best_cost = MAX_TABLE + MAX_LITERAL + 1
    largest = min(max(BLOCK_BITS, (size - 1).bit_length()), BLOCK_BITS + CHUNK_BITS_MASK)
    for bits in range(BLOCK_BITS, largest + 1):
        literal = sum(len(chunks) for chunks in _literal(size, pieces, bits)) << bits
        if literal > min(MAX_LITERAL, best_cost):  # larger chunks can only need more
            break
        table = 4 * -(-size >> bits)
        if table <= MAX_TABLE and table + literal <= best_cost:
            best, best_cost = bits, table + literal
    if best < 0:
        raise LimitError(
            f"sparse file of {size} bytes in {len(pieces)} pieces needs more than {MAX_TABLE >> 20} MiB of chunk "
            f"table or {MAX_LITERAL >> 20} MiB of copied blocks"
        )
    return Chunks(size, best, pieces, [chunk for chunks in _literal(size, pieces, best) for chunk in chunks])


def table(chunks: Chunks, base: int, literal_start: int) -> bytes:
    """Return the chunk table: the first block of each chunk, or all ones for a hole.

    `base` is the byte offset of the tar stream in the served file; `literal_start` is the first block of the literal
    chunks.
    """
    starts = array("I", [HOLE]) * chunks.chunk_count
    step = 1 << chunks.bits - BLOCK_BITS
    for piece in chunks.pieces:
        first, last = _direct(chunks.size, piece, chunks.bits)
        block = (base + piece.stream + (first << chunks.bits) - piece.start) // BLOCK
        starts[first:last] = array("I", range(block, block + (last - first) * step, step))
    for index, chunk in enumerate(chunks.literal):
        starts[chunk] = literal_start + index * step
    if sys.byteorder == "big":
        starts.byteswap()
    return starts.tobytes()


def literal_bytes(chunks: Chunks, read: Callable[[int, int], bytes]) -> Iterator[bytes]:
    """Yield the bytes of each literal chunk; `read(size, offset)` reads the tar stream.

    Raises `InvalidImageError` if the stream ends within a piece.
    """
    starts = [piece.start for piece in chunks.pieces]
    for chunk in chunks.literal:
        first = chunk << chunks.bits
        end = min(first + (1 << chunks.bits), chunks.size)
        content = bytearray(end - first)
        index = max(0, bisect_right(starts, first) - 1)
        while index < len(starts) and starts[index] < end:
            piece = chunks.pieces[index]
            low, high = max(first, piece.start), min(end, piece.end)
            if low < high:
                stored = read(high - low, piece.stream + low - piece.start)
                if len(stored) != high - low:
                    raise InvalidImageError("the layer ends within the file's data")
                content[low - first : high - first] = stored
            index += 1
        yield bytes(content)


def _direct(size: int, piece: Piece, bits: int) -> tuple[int, int]:
    """Return the range of chunks that `piece` provides directly from the tar stream; (0, 0) if none."""
    start, end, stream = piece
    if (stream - start) % BLOCK:
        return 0, 0
    first = -(-start >> bits)
    last = -(-size >> bits) if end == size else end >> bits
    return (first, last) if first < last else (0, 0)


def _literal(size: int, pieces: Iterable[Piece], bits: int) -> Iterator[range]:
    """Yield disjoint ascending ranges of the chunks with stored bytes that the tar stream cannot provide directly."""
    done = 0
    for piece in pieces:
        first, last = _direct(size, piece, bits)
        low, high = piece.start >> bits, -(-piece.end >> bits)
        if last == 0:
            first = last = low
        elif (first, last) == (low, high):
            continue
        for start, stop in ((low, first), (last, high)):
            if max(start, done) < stop:
                yield range(max(start, done), stop)
                done = stop
