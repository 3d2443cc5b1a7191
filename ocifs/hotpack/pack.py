"""An opened hot pack: find bytes of the layers in it, and decode the frames that have them.

Every block is verified by its digest when its frame is decoded. After a wrong block, the pack is no longer used:
readers decode spans instead. The file may still be arriving; then a reader waits only for what arrives soon. The table
stays known after any fault, so that what was read can be compared with the layers. Safe to use from any thread.
"""

import sys
import threading
import time
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from ocifs.errors import OcifsError
from ocifs.hotpack.arriving import PATIENCE, ArrivingFile
from ocifs.hotpack.format import Block, PackFrame, PackTable
from ocifs.layer.single_flight import SingleFlight
from ocifs.reader import ReaderAt

CACHED = 4 << 20
"""Default bound of decoded bytes in memory: the kernel caches the bytes that were read."""


class _Piece(NamedTuple):
    """A part of a block that a reader requested."""

    frame: int
    block: int
    """Its number in the frame."""
    begin: int
    end: int


class HotPack:
    """A pack, of which the first frames with up to `limit` decoded bytes are used. `load` opens it and reads its table.

    If it `is_arriving`, `load` may wait for the head; then a thread that may wait calls `table`.
    """

    def __init__(
        self,
        load: Callable[[], tuple[ReaderAt, PackTable]],
        *,
        verified: bool,
        limit: int = sys.maxsize,
        is_arriving: bool = False,
    ) -> None:
        self.verified = verified
        """Whether its blocks come from verified layers, or were compared with them."""
        self.capacity = CACHED
        """Most decoded bytes to keep in memory."""
        self.fault: str | None = None
        """Why the pack is not usable, once that is known."""
        self.has_served = False
        """Whether bytes of it were decoded for readers."""
        self.patience = PATIENCE
        """Seconds for which readers wait for the head, counted from the first of them."""
        self.used = 0
        """Frames that are used."""
        self._load = load
        self._limit = limit
        self._is_arriving = is_arriving
        self._known = threading.Event()
        self._waited_since: float | None = None
        self._opened: tuple[ReaderAt, PackTable] | None = None
        self._starts: dict[int, list[int]] = {}
        """For each layer, where its blocks begin, ascending."""
        self._places: dict[int, list[tuple[Block, int, int]]] = {}
        """For each layer, its blocks in the same order, with frame, and number in the frame."""
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._decoded: OrderedDict[int, list[memoryview]] = OrderedDict()
        self._held = 0
        """Bytes in it."""
        self._flights: SingleFlight[int, list[memoryview]] = SingleFlight(self._lock)

    def table(self) -> PackTable | None:
        """Return its contents, also after a fault in a frame; None if they cannot be read. Wait for the head."""
        if not self.is_open():
            with self._loading:
                if not self.is_open():
                    self._open()
                    self._known.set()
        return None if self._opened is None else self._opened[1]

    def abandon(self, why: str) -> None:
        """Do without the pack from now on, unless its table is known."""
        if not self.is_open():
            self.fault = why
            self._known.set()

    def file(self) -> ReaderAt | None:
        """Return its file, or None if it is not usable."""
        return None if self.table() is None or self._opened is None or self.fault is not None else self._opened[0]

    def is_open(self) -> bool:
        """Whether `table` does not wait."""
        return self._opened is not None or self.fault is not None

    def views(self, layer: int, size: int, offset: int) -> list[memoryview] | None:
        """Return `size` bytes of a layer's stream at `offset`, or None if the pack does not have all of them soon."""
        if not self._is_ready() or (pieces := self._find(layer, offset, offset + size)) is None:
            return None
        views = []
        for piece in pieces:
            blocks = self.frame(piece.frame) if self._arrives(piece.frame) else None
            if blocks is None:
                return None
            views.append(blocks[piece.block][piece.begin : piece.end])
        return views

    def views_at_hand(self, layer: int, size: int, offset: int) -> list[memoryview] | None:
        """Return the same as `views` if that needs no decoding, else None."""
        if self._opened is None or (pieces := self._find(layer, offset, offset + size)) is None:
            return None
        views = []
        with self._lock:
            for piece in pieces:
                if (blocks := self._decoded.get(piece.frame)) is None:
                    return None
                views.append(blocks[piece.block][piece.begin : piece.end])
        return views

    def pieces_at_hand(self, layer: int, begin: int, end: int) -> list[tuple[int, memoryview]]:
        """Return (offset in the stream, bytes) of the decoded parts of a range, in order, without waiting."""
        if self._opened is None or self.fault is not None or not (starts := self._starts.get(layer)):
            return []
        places = self._places[layer]
        pieces = []
        with self._lock:
            for block, frame, position in places[max(bisect_right(starts, begin) - 1, 0) : bisect_left(starts, end)]:
                if block.end > begin and (blocks := self._decoded.get(frame)) is not None:
                    start = max(begin, block.offset)
                    pieces.append((start, blocks[position][start - block.offset : end - block.offset]))
        return pieces

    def shrink(self) -> None:
        """Lower the bound of decoded bytes in memory."""
        with self._lock:
            self.capacity = CACHED
            self._evict()

    def has(self, layer: int, size: int, offset: int) -> bool | None:
        """Whether the pack has all of these bytes; None: it is not known yet."""
        if self.fault is not None:
            return False
        return None if self._opened is None else self._find(layer, offset, offset + size) is not None

    def frame(self, number: int) -> list[memoryview] | None:
        """Return the blocks of a frame, verified; None if the pack is not usable any more. Wait for its bytes."""
        table = self.table()
        if table is None or self.fault is not None:
            return None
        try:
            blocks, _ = self._flights.run(
                number, lambda: self._decoded.get(number), lambda: (number,), lambda _: self._decode(table, number)
            )
        except (OcifsError, OSError) as error:
            self.fault = self.fault or str(error)
            return None
        return blocks

    def _is_ready(self) -> bool:
        """Whether frames can be used; the first readers wait for an arriving head."""
        if self._is_arriving and not self.is_open():
            now = time.monotonic()
            if self._waited_since is None:
                self._waited_since = now
            self._known.wait(max(self._waited_since + self.patience - now, 0))
            return self._opened is not None
        return self.table() is not None

    def _arrives(self, number: int) -> bool:
        """Whether a frame is here, or arrives soon."""
        assert self._opened is not None  # noqa: S101 - the caller has found the frame
        file, table = self._opened
        if not isinstance(file, ArrivingFile) or number in self._decoded:
            return True
        frame = table.frames[number]
        return file.arrives(frame.stored, frame.offset)

    def _decode(self, table: PackTable, number: int) -> list[memoryview]:
        assert self._opened is not None  # noqa: S101 - its table is known
        frame: PackFrame = table.frames[number]
        blocks = frame.decode(self._opened[0].pread(frame.stored, frame.offset))
        if blocks is None:
            raise OcifsError(f"hot pack: frame {number} is damaged")
        with self._lock:
            self.has_served = True
            self._decoded[number] = blocks
            self._held += sum(map(len, blocks))
            self._evict()
        return blocks

    def _evict(self) -> None:
        while self._held > self.capacity and len(self._decoded) > 1:
            self._held -= sum(map(len, self._decoded.popitem(last=False)[1]))

    def _open(self) -> None:
        try:
            file, table = self._load()
        except (OcifsError, OSError) as error:
            self.fault = self.fault or str(error)
            return
        size = 0
        for number, frame in enumerate(table.frames):
            size += sum(block.size for block in frame.blocks)
            if size > self._limit:
                break
            self.used = number + 1
            for position, block in enumerate(frame.blocks):
                self._places.setdefault(block.layer, []).append((block, number, position))
        for layer, places in self._places.items():
            places.sort(key=lambda place: place[0].offset)
            self._starts[layer] = [place[0].offset for place in places]
        self._opened = file, table

    def _find(self, layer: int, begin: int, end: int) -> list[_Piece] | None:
        """Return the pieces of a range of a stream, in order; None if any byte is missing."""
        starts = self._starts.get(layer)
        if not starts or self.fault is not None:
            return None
        places = self._places[layer]
        at = bisect_right(starts, begin) - 1
        pieces = []
        while begin < end:
            if not 0 <= at < len(places) or not places[at][0].offset <= begin < places[at][0].end:
                return None
            block, frame, position = places[at]
            stop = min(end, block.end)
            pieces.append(_Piece(frame, position, begin - block.offset, stop - block.offset))
            begin = stop
            at += 1
        return pieces
