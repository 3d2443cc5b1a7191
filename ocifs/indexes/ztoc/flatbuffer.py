"""Reading FlatBuffers of which nothing is believed: tables, strings and vectors.

The `flatbuffers` package is not used: it checks nothing. There a vector may claim four billion elements, an offset may
lead anywhere, even before the buffer, and the same bytes may be referred to a million times, each time as new memory.
Here every offset is held to the buffer, and what is read of it is paid for from a budget that grows with its size.

Format: flatbuffers.dev, "FlatBuffer Internals". An offset counts from where it stands; a table begins with the distance
back to its vtable, which has the place of each field in the table, 0 for one that is left out.
"""

from collections.abc import Iterator
from struct import Struct

from ocifs.errors import InvalidImageError

BYTE, INT, UINT, LONG = Struct("<b"), Struct("<i"), Struct("<I"), Struct("<q")

_VTABLE = Struct("<H")
_SLOTS_MOST = 16
"""Fields that are looked at in a vtable; no table that is read here has more."""
_VTABLES_MOST = 256
"""How many are remembered; writers share those that are equal."""
_COST = 8
"""Of any table or string, besides its bytes."""
_SHARED = 2
"""How often on average a byte may be referred to: writers may share strings that occur again and again."""


class Buffer:
    """A FlatBuffer. Whatever reads of it may raise struct.error as well, which means that an offset leads out of it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._left = _SHARED * len(data) + 1024
        self._vtables: dict[int, tuple[int, ...]] = {}

    def root(self) -> "Table":
        """Return the outermost table."""
        return self.table_at(self.target(0))

    def target(self, at: int) -> int:
        """Return where the offset at `at` leads."""
        target: int = at + UINT.unpack_from(self.data, at)[0]
        return target

    def table_at(self, at: int) -> "Table":
        """Return the table that begins at `at`."""
        self.spend(_COST)
        vtable = at - INT.unpack_from(self.data, at)[0]
        slots = self._vtables.get(vtable)
        if slots is None:
            slots = self._slots(vtable)
            if len(self._vtables) < _VTABLES_MOST:
                self._vtables[vtable] = slots
        return Table(self, at, slots)

    def string_at(self, at: int) -> bytes:
        """Return the string, or the vector of bytes, to which the offset at `at` leads."""
        start, size = self.vector_at(at, 1)
        self.spend(_COST + size)
        return self.data[start : start + size]

    def vector_at(self, at: int, width: int) -> tuple[int, int]:
        """Return where the elements begin, and how many there are, of `width` bytes each."""
        start = self.target(at) + UINT.size
        count = UINT.unpack_from(self.data, start - UINT.size)[0]
        if start + count * width > len(self.data):
            raise InvalidImageError(f"a vector of {count} elements is longer than the file")
        return start, count

    def spend(self, cost: int) -> None:
        """Pay for what is read."""
        self._left -= cost
        if self._left < 0:
            raise InvalidImageError("it refers to the same bytes over and over")

    def _slots(self, vtable: int) -> tuple[int, ...]:
        if vtable < 0:
            raise InvalidImageError("a table whose vtable is before the file")
        size = _VTABLE.unpack_from(self.data, vtable)[0]
        count = min(max(size // _VTABLE.size - 2, 0), _SLOTS_MOST)
        return Struct(f"<{count}H").unpack_from(self.data, vtable + 2 * _VTABLE.size)


class Table:
    """A table; its fields are known by their position in the schema."""

    __slots__ = ("_at", "_buffer", "_slots")

    def __init__(self, buffer: Buffer, at: int, slots: tuple[int, ...]) -> None:
        self._buffer = buffer
        self._at = at
        self._slots = slots

    def number(self, slot: int, form: Struct, default: int = 0) -> int:
        """Return a number."""
        place = self._place(slot)
        if not place:
            return default
        number: int = form.unpack_from(self._buffer.data, place)[0]
        return number

    def string(self, slot: int) -> bytes:
        """Return a string, or a vector of bytes; nothing if it is left out."""
        place = self._place(slot)
        return self._buffer.string_at(place) if place else b""

    def table(self, slot: int) -> "Table":
        """Return a table, which must be there."""
        place = self._place(slot)
        if not place:
            raise InvalidImageError("a table is left out that it must have")
        return self._buffer.table_at(self._buffer.target(place))

    def count(self, slot: int) -> int:
        """Return how many elements a vector of offsets has."""
        place = self._place(slot)
        return self._buffer.vector_at(place, UINT.size)[1] if place else 0

    def tables(self, slot: int) -> "Iterator[Table]":
        """Give the tables of a vector."""
        buffer = self._buffer
        for place in self._elements(slot):
            yield buffer.table_at(buffer.target(place))

    def strings(self, slot: int) -> Iterator[bytes]:
        """Give the strings of a vector."""
        return map(self._buffer.string_at, self._elements(slot))

    def _elements(self, slot: int) -> range:
        place = self._place(slot)
        if not place:
            return range(0)
        start, count = self._buffer.vector_at(place, UINT.size)
        return range(start, start + count * UINT.size, UINT.size)

    def _place(self, slot: int) -> int:
        offset = self._slots[slot] if slot < len(self._slots) else 0
        return offset and self._at + offset
