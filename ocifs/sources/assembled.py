"""The tar stream of a layer, reassembled from its tar-split file and the directory that it was extracted to.

A table, made once of the tar-split file, says where each piece of the stream is: in the table itself (headers and
padding) or in a file of the directory. So any range can be read without the pieces before it, and another process gets
the table and the directory as open files. Nothing here verifies the bytes: a LayerIndex has digests of them.

The table has, for each piece in order, its raw bytes, or the length and the name of its file. Two arrays of
little-endian u64 follow: the start of each piece in the stream, with the end of the last; and where it is in the table.
The last two numbers are the count of pieces and the length of what precedes the arrays.
"""

import os
import stat
import struct
import sys
import threading
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable

from ocifs.errors import InvalidImageError, OcifsError, UnsupportedError, printable, raise_if_short
from ocifs.limits import Limits
from ocifs.reader import FileReader
from ocifs.sources.in_root import open_in_root
from ocifs.tarsplit.entries import Content, TarSplitEntry

_COUNT = struct.Struct("<QQ")  # pieces, bytes before the arrays
_LENGTH = struct.Struct("<I")
_FILE = 1 << 63
"""Bit of a place that marks the name of a file."""


def write_table(entries: Iterable[TarSplitEntry], limits: Limits, write: Callable[[bytes], None]) -> None:
    """Write the table of a tar-split file in pieces. Raises the errors of `entries`, and LimitError."""
    starts, places = array("Q", [0]), array("Q")
    written = position = 0
    was_raw = False
    for entry in entries:
        if isinstance(entry, Content):
            if not entry.size:
                continue
            data = _LENGTH.pack(len(entry.name)) + entry.name
            size = entry.size
        else:
            data, size = entry.data, len(entry.data)
        is_raw = not isinstance(entry, Content)
        position += size
        if position > limits.uncompressed:
            raise limits.passed("uncompressed", f"the layer has more than {limits.uncompressed} bytes")
        if is_raw and was_raw:
            starts[-1] = position
        else:
            places.append(written if is_raw else written | _FILE)
            starts.append(position)
        if len(places) > 2 * limits.entries + 2:
            raise limits.passed("entries", f"the layer has more than {limits.entries} files")
        write(data)
        written += len(data)
        was_raw = is_raw
    for numbers in (starts, places):
        if sys.byteorder == "big":
            numbers.byteswap()
        write(numbers.tobytes())
    write(_COUNT.pack(len(places), written))


class AssembledReader:
    """The stream, as a `BlobReader`. Safe to use from several threads; the owner closes the descriptors."""

    offset = 0

    def __init__(self, table: FileReader, root: int, stop: threading.Event | None = None) -> None:
        """`root` is the directory that the layer was extracted to.

        Raises InvalidImageError if the table is damaged.
        """
        self.table = table
        self.root = root
        self._stop = stop
        self._starts, self._places = _arrays(table)
        self.size = self._starts[-1]

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset`.

        Raises:
            InvalidImageError: A file is shorter than when the layer was stored, or no regular file.
            UnsupportedError: A file may not be read, or is not there.
            OSError: It cannot be read.
            OcifsError: `stop` of `stopped_by` is set.
        """
        end = min(offset + size, self.size)
        pieces: list[bytes] = []
        number = bisect_right(self._starts, offset) - 1
        while offset < end:
            if self._stop is not None and self._stop.is_set():
                raise OcifsError("interrupted")
            start, stop = self._starts[number], self._starts[number + 1]
            pieces.append(self._piece(self._places[number], offset - start, min(stop, end) - offset))
            offset = min(stop, end)
            number += 1
        return b"".join(pieces)

    def will_need(self, size: int, offset: int) -> None:
        """Do nothing: the kernel reads ahead in each file by itself."""

    def stopped_by(self, stop: threading.Event) -> "AssembledReader":
        """Return the same, whose reads raise OcifsError once `stop` is set."""
        return AssembledReader(self.table, self.root, stop)

    def _piece(self, place: int, offset: int, size: int) -> bytes:
        """Return `size` bytes at `offset` of a piece."""
        if not place & _FILE:
            return self.table.pread(size, place + offset)
        place &= ~_FILE
        (length,) = _LENGTH.unpack(self.table.pread(_LENGTH.size, place))
        name = self.table.pread(length, place + _LENGTH.size)
        try:
            fd = open_in_root(self.root, name)
        except OSError as error:
            raise_if_short(error)
            raise _unreadable(name, error) from error
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise InvalidImageError(f"file '{printable(name)}' of the stored layer is not a regular file")
            data = FileReader(fd).pread(size, offset)
        finally:
            os.close(fd)
        if len(data) != size:
            raise InvalidImageError(f"file '{printable(name)}' is shorter than when the layer was stored")
        return data


def _unreadable(name: bytes, error: OSError) -> UnsupportedError:
    what = f"file '{printable(name)}' of the stored layer: {error.strerror}"
    if isinstance(error, PermissionError):
        return UnsupportedError(f"cannot read {what}: run the command in `podman unshare`, or as root")
    return UnsupportedError(f"cannot read {what}: was the image removed? If not, use `podman save NAME | ocifs … -`")


def _arrays(table: FileReader) -> "tuple[array[int], array[int]]":
    """Return the starts and places of a table."""
    end = table.size - _COUNT.size
    count, begin = _COUNT.unpack(table.pread(_COUNT.size, end)) if end >= 0 else (0, -1)
    starts, places = array("Q"), array("Q")
    if begin + 8 * (2 * count + 1) != end:
        raise InvalidImageError("the table of a stored layer is damaged: run `ocifs cache clear`")
    starts.frombytes(table.pread(8 * (count + 1), begin))
    places.frombytes(table.pread(8 * count, begin + 8 * (count + 1)))
    if sys.byteorder == "big":
        starts.byteswap()
        places.byteswap()
    return starts, places
