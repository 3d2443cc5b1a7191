"""Parse the maps of sparse files, in the four forms of GNU tar: which bytes of the file are stored.

A map is a flat list of numbers: offset in the file, length, offset, length... The parser checks its length against the
remaining `room` before it reads the map. GNU tar manual, "Storing Sparse Files".
"""

from ocifs.errors import InvalidImageError, LimitError, UnsupportedError
from ocifs.toc.field import GNU_MAGIC, check_size, number
from ocifs.toc.forward import Forward, read_exactly
from ocifs.toc.pax import decimal

Pieces = tuple[tuple[int, int], ...]


def layout(
    block: bytes, records: dict[bytes, bytes], stored: int, stream: Forward, room: int
) -> tuple[int, int, Pieces | None]:
    """Return logical size, stored size and pieces of a regular file; the pieces are None unless it is sparse.

    `stored` is the size in its header, which in version 1.0 includes the map. This reads `stream` up to the data.

    Raises:
        InvalidImageError: The map does not fit the file.
        UnsupportedError: The sparse format is not one of GNU tar's.
        LimitError: The map has more than `room` pieces.
    """
    version = records.get(b"GNU.sparse.major"), records.get(b"GNU.sparse.minor")
    if block[156] == ord("S"):
        size, numbers = _header_map(block, stream, room)
    elif version == (None, None) and not records.get(b"GNU.sparse.map"):
        return stored, stored, None
    else:
        real = records.get(b"GNU.sparse.size") or records.get(b"GNU.sparse.realsize")
        size = check_size(decimal(real)) if real else stored
        if version == (b"1", b"0"):
            begin = stream.offset
            numbers = _data_map(stream, stored, room)
            stored -= stream.offset - begin
        elif version in ((None, None), (b"0", b"0"), (b"0", b"1")):
            numbers = _record_map(records, room)
        else:
            raise UnsupportedError("a sparse file of an unknown version")
    return size, stored, _pieces(numbers, size, stored)


def _header_map(block: bytes, stream: Forward, room: int) -> tuple[int, list[int]]:
    """Return the logical size and the map of an entry of type S: in its header and in blocks after it."""
    if block[257:265] != GNU_MAGIC:
        raise UnsupportedError("a sparse file not in GNU tar's format")
    size = check_size(number(block[483:495]))
    numbers: list[int] = []
    slots, more = block[386:482], block[482]
    while True:
        for at in range(0, len(slots), 24):
            if not slots[at]:
                break
            numbers += number(slots[at : at + 12]), number(slots[at + 12 : at + 24])
        _check(len(numbers) // 2, room)
        if not more:
            return size, numbers
        extension = read_exactly(stream, 512)
        slots, more = extension[:504], extension[504]


def _record_map(records: dict[bytes, bytes], room: int) -> list[int]:
    """Return the map of version 0.1: one pax record."""
    count = decimal(records.get(b"GNU.sparse.numblocks", b""))
    _check(count, room)
    value = records.get(b"GNU.sparse.map")
    numbers = [decimal(digits) for digits in value.split(b",")] if value else []
    if len(numbers) != 2 * count:
        raise InvalidImageError("a sparse map of another length than it states")
    return numbers


def _data_map(stream: Forward, stored: int, room: int) -> list[int]:
    """Return the map of version 1.0: decimal lines, their count first, in the first blocks of the data."""
    numbers: list[int] = []
    rest = b""
    while not numbers or len(numbers) <= 2 * numbers[0]:
        if stored < 512 or len(rest) > 512:  # a number may have leading zeros
            raise InvalidImageError("a sparse map without an end")
        stored -= 512
        *lines, rest = (rest + read_exactly(stream, 512)).split(b"\n")
        numbers += map(decimal, lines)
        if numbers:
            _check(numbers[0], room)
    if len(numbers) > 2 * numbers[0] + 1:
        raise InvalidImageError("a sparse map longer than it states")
    return numbers[1:]


def _check(count: int, room: int) -> None:
    if count > room:
        raise LimitError(
            f"a sparse file of {count} pieces: over the limit sparse-pieces, of which the layer has {room} left; "
            "if you trust the image, raise it with --limit"
        )


def _pieces(numbers: list[int], size: int, stored: int) -> Pieces:
    """Return the non-empty pieces. They must ascend without overlap inside the file and cover all the data."""
    pieces = [*zip(numbers[::2], numbers[1::2], strict=True)]
    end = 0
    for offset, length in pieces:
        if offset < end or length < 0 or offset + length > size:
            raise InvalidImageError("a sparse map whose pieces overlap or lie outside the file")
        end = offset + length
    if sum(numbers[1::2]) != stored:
        raise InvalidImageError(f"a sparse map of {sum(numbers[1::2])} bytes, for {stored} bytes of data")
    return tuple(piece for piece in pieces if piece[1])
