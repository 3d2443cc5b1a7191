"""Read tables, strings and vectors from an untrusted FlatBuffer.

The `flatbuffers` package checks nothing. There, a vector may claim four billion elements. An offset may point anywhere,
even before the buffer. A million references to the same bytes allocate a million copies. Here every offset must stay in
the buffer, and each read costs part of a budget that is proportional to the buffer's size.

Format: flatbuffers.dev, "FlatBuffer Internals". An offset is relative to its own position. A table begins with the
distance back to its vtable, which has the offset of each field in the table, 0 for an omitted field.
"""

from collections.abc import Iterator
from struct import Struct

from ocifs.errors import InvalidImageError

BYTE, INT, UINT, LONG = Struct("<b"), Struct("<i"), Struct("<I"), Struct("<q")

_VTABLE = Struct("<H")
_SLOTS_MAX = 16
"""Maximum fields to read from a vtable; no known table has more."""
_VTABLES_MAX = 256
"""Maximum cached vtables; writers share equal ones."""
_COST = 8
"""Cost of a table or string, besides its bytes."""
_SHARED = 2
"""Average references allowed to a byte: writers may share repeated strings."""


class Buffer:
    """A FlatBuffer. Reads may also raise struct.error: an offset points outside of the buffer."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._left = _SHARED * len(data) + 1024
        self._vtables: dict[int, tuple[int, ...]] = {}

    def root(self) -> "Table":
        """Return the outermost table."""
        return self.table_at(self.target(0))

    def target(self, at: int) -> int:
        """Return the target of the offset at `at`."""
        target: int = at + UINT.unpack_from(self.data, at)[0]
        return target

    def table_at(self, at: int) -> "Table":
        """Return the table that begins at `at`."""
        self.spend(_COST)
        vtable = at - INT.unpack_from(self.data, at)[0]
        slots = self._vtables.get(vtable)
        if slots is None:
            slots = self._slots(vtable)
            if len(self._vtables) < _VTABLES_MAX:
                self._vtables[vtable] = slots
        return Table(self, at, slots)

    def string_at(self, at: int) -> bytes:
        """Return the string or vector of bytes that the offset at `at` points to."""
        start, size = self.vector_at(at, 1)
        self.spend(_COST + size)
        return self.data[start : start + size]

    def vector_at(self, at: int, width: int) -> tuple[int, int]:
        """Return (start, count) of the elements of a vector with elements of `width` bytes."""
        start = self.target(at) + UINT.size
        count = UINT.unpack_from(self.data, start - UINT.size)[0]
        if start + count * width > len(self.data):
            raise InvalidImageError(f"a vector of {count} elements is longer than the file")
        return start, count

    def spend(self, cost: int) -> None:
        """Charge `cost` to the budget. Raises InvalidImageError if it is used up."""
        self._left -= cost
        if self._left < 0:
            raise InvalidImageError("it refers to the same bytes over and over")

    def _slots(self, vtable: int) -> tuple[int, ...]:
        if vtable < 0:
            raise InvalidImageError("a table whose vtable is before the file")
        size = _VTABLE.unpack_from(self.data, vtable)[0]
        count = min(max(size // _VTABLE.size - 2, 0), _SLOTS_MAX)
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
        position = self._position(slot)
        if not position:
            return default
        number: int = form.unpack_from(self._buffer.data, position)[0]
        return number

    def string(self, slot: int) -> bytes:
        """Return a string or a vector of bytes; empty if it is omitted."""
        position = self._position(slot)
        return self._buffer.string_at(position) if position else b""

    def table(self, slot: int) -> "Table":
        """Return a table. Raises InvalidImageError if it is omitted."""
        position = self._position(slot)
        if not position:
            raise InvalidImageError("a required table is missing")
        return self._buffer.table_at(self._buffer.target(position))

    def count(self, slot: int) -> int:
        """Return the number of elements in a vector of offsets."""
        position = self._position(slot)
        return self._buffer.vector_at(position, UINT.size)[1] if position else 0

    def tables(self, slot: int) -> "Iterator[Table]":
        """Yield the tables of a vector."""
        buffer = self._buffer
        for position in self._elements(slot):
            yield buffer.table_at(buffer.target(position))

    def strings(self, slot: int) -> Iterator[bytes]:
        """Yield the strings of a vector."""
        return map(self._buffer.string_at, self._elements(slot))

    def _elements(self, slot: int) -> range:
        position = self._position(slot)
        if not position:
            return range(0)
        start, count = self._buffer.vector_at(position, UINT.size)
        return range(start, start + count * UINT.size, UINT.size)

    def _position(self, slot: int) -> int:
        offset = self._slots[slot] if slot < len(self._slots) else 0
        return offset and self._at + offset
