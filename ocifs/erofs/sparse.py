"""Sparse files as EROFS chunks: which chunks are holes, which lie in the tar stream, which must be copied.

A file is cut into chunks of one power-of-two size, and a table says where each lies. A chunk can be read from the
tar stream only when one stored piece covers all of it (or all up to the end of the file) and lies block-aligned
there; any other chunk with stored bytes is *literal*: put together from its pieces and kept in the tree image.
Small chunks need a long table, large ones many literal bytes; the cheapest size is taken. So a file of 256 GiB
with a few pages stored, as /var/log/lastlog is, costs a few MiB. It knows nothing of inodes.
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
    """Stored bytes `start` to `end` of a file, which begin at `stream` in the layer's tar stream."""

    start: int
    end: int
    stream: int


class Chunks(NamedTuple):
    """A sparse file cut into chunks."""

    size: int
    """Of the file, in bytes."""
    bits: int
    """log2 of the size of a chunk in bytes."""
    pieces: Sequence[Piece]
    literal: Sequence[int]
    """The chunks that must be copied, ascending."""

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
        """Blocks that the literal chunks take, all of them whole but the one at the end of the file."""
        whole = len(self.literal) << self.bits - BLOCK_BITS
        if self.literal and self.literal[-1] == self.chunk_count - 1:
            whole -= ((self.chunk_count << self.bits) - self.size) // BLOCK
        return whole


def pieces_of(size: int, stream: int, sparse: Iterable[tuple[int, int]]) -> list[Piece]:
    """Return the pieces of a file of `size` bytes that are stored one after the other from `stream` on.

    Raises `InvalidImageError` unless the pieces ascend, apart from each other, within the file.
    """
    pieces: list[Piece] = []
    end = 0
    for start, length in sparse:
        if start < end or length < 0 or start + length > size:
            raise InvalidImageError(f"sparse piece of {length} bytes at {start} is out of order or of the file")
        end = start + length
        if length:
            pieces.append(Piece(start, end, stream))
        stream += length
    return pieces


def cut(size: int, pieces: Sequence[Piece]) -> Chunks:
    """Choose the chunk size that costs the fewest bytes of table and literal chunks, the larger of equals.

    Raises `LimitError` when the table would pass 16 MiB or the literal chunks 64 MiB at every size.
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
    """Return the chunk table: the first block of each chunk, or all ones.

    `base` is where the tar stream begins in the served file, in bytes; `literal_start` the block from which on the
    literal chunks lie.
    """
    starts = array("I", [HOLE]) * chunks.chunk_count
    step = 1 << chunks.bits - BLOCK_BITS
    for piece in chunks.pieces:
        first, last = _direct(chunks.size, piece, chunks.bits)
        block = (base + piece.stream + (first << chunks.bits) - piece.start) // BLOCK
        starts[first:last] = array("I", range(block, block + (last - first) * step, step))
    for place, chunk in enumerate(chunks.literal):
        starts[chunk] = literal_start + place * step
    if sys.byteorder == "big":
        starts.byteswap()
    return starts.tobytes()


def literal_bytes(chunks: Chunks, read: Callable[[int, int], bytes]) -> Iterator[bytes]:
    """Yield the bytes of each literal chunk; `read(size, offset)` reads the tar stream.

    Raises `InvalidImageError` when the stream ends within a piece.
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
    """Return from and up to which chunk `piece` can be read from the tar stream; (0, 0) if nowhere."""
    start, end, stream = piece
    if (stream - start) % BLOCK:
        return 0, 0
    first = -(-start >> bits)
    last = -(-size >> bits) if end == size else end >> bits
    return (first, last) if first < last else (0, 0)


def _literal(size: int, pieces: Iterable[Piece], bits: int) -> Iterator[range]:
    """Yield, ascending and apart, the chunks that hold stored bytes but cannot be read from the tar stream."""
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
