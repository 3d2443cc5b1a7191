"""A pass over a gzip blob that stops between deflate blocks about once every MiB to take a checkpoint.

zlib-ng inflates the bytes once, in the caller's thread. The pass stores whole windows; rapidgzip and `trimming` leave
out the bytes that the stream never refers to. Time and memory are linear in the size of the blob, whatever the number
and size of its members. The pass skips padding and garbage after a member only if it can warn of them.
"""

from collections.abc import Iterator
from typing import Self

from ocifs import compression
from ocifs.compression import CHUNK, Checkpoint, Chunk, Warn, evenly
from ocifs.compression.zng import Inflate, InflateError
from ocifs.compression.zstd_frame import window_packer
from ocifs.errors import InvalidImageError
from ocifs.reader import ReaderAt

SPACING = 1 << 20
"""Uncompressed bytes between checkpoints: more than elsewhere, because the windows stay whole."""
_INPUT = 256 << 10
_MAGIC = b"\x1f\x8b"
_PADDING = 4 << 10
"""Bytes searched at once for NULs after a member."""
_REPORT_INTERVAL = 16 << 20
"""Uncompressed bytes between updates of `found`."""


class BlockPass:
    """Inflates a blob and collects the checkpoints."""

    restartable = True
    untrimmed = False
    spacing = SPACING

    def __init__(self, blob: ReaderAt, warn: Warn | None = None) -> None:
        """Read `blob`; with `warn`, skip NULs after a member, and stop with a warning at other trailing bytes."""
        self.blob = blob
        self._warn = warn
        self.consumed = 0
        self.found: list[Checkpoint] = []
        self._points: list[Checkpoint] = []
        self._produced = 0
        self._pack = window_packer()

    def __enter__(self) -> Self:
        self._inflate = Inflate()
        return self

    def __exit__(self, *exc: object) -> None:
        self._inflate.__exit__(*exc)

    def chunks(self) -> Iterator[Chunk]:
        """Yield the uncompressed bytes. Raises InvalidImageError."""
        while size := self.readinto(chunk := memoryview(bytearray(CHUNK))):
            yield chunk[:size]

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` and return the number of bytes, fewer than its length only at the end.

        Raises:
            InvalidImageError: The stream is damaged or truncated, or other bytes follow it.
        """
        inflate = self._inflate
        filled = 0
        try:
            while filled < len(buffer) and (not inflate.ended or self._begin_member()):
                if not inflate.left:
                    self._feed()
                due = self._points[-1].start + self.spacing - self._produced if self._points else 0
                end = min(filled + due, len(buffer)) if due > 0 else len(buffer)
                count = inflate.into(buffer, filled, end, stop_between_blocks=due <= 0)
                filled += count
                self._produced += count
                if due <= 0 and (bits := inflate.bits) is not None:
                    self._add(bits)
        except InflateError as error:
            raise InvalidImageError(f"gzip stream damaged near byte {self.consumed}: {error}") from None
        return filled

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Yield the checkpoints, then the end."""
        return evenly(iter([*self._points, Checkpoint(self._produced, self.blob.size)]))

    def _add(self, bits: int) -> None:
        offset = self.consumed - self._inflate.left - (bits > 0)
        window = self._pack(self._inflate.window()) if self._points else b""
        self._points.append(Checkpoint(self._produced, offset, bits, window))
        if len(self._points) % (_REPORT_INTERVAL // self.spacing) == 0:
            self.found = self._points.copy()

    def _feed(self) -> None:
        data = self._read()
        if not data:
            raise InvalidImageError("the gzip stream is truncated: fetch or build the image again")
        self._inflate.feed(data)

    def _begin_member(self) -> bool:
        """Start the next member; return whether one follows."""
        inflate = self._inflate
        head = inflate.head(len(_MAGIC))
        while head != _MAGIC and (len(head) < len(_MAGIC) or (self._warn and head[0] == 0)):
            if self._warn and head[:1] == b"\0":
                padding = inflate.head(_PADDING)
                inflate.skip(len(padding) - len(padding.lstrip(b"\0")))
            elif data := self._read():
                inflate.feed(head + data)
            else:
                break
            head = inflate.head(len(_MAGIC))
        if head == _MAGIC:
            inflate.begin_member()
        elif head:
            self._end_before_garbage()
        return head == _MAGIC

    def _end_before_garbage(self) -> None:
        if self._warn is None:
            raise InvalidImageError("other bytes follow the gzip stream")
        self._warn(f"{self.blob.size - self.consumed + self._inflate.left} bytes after the gzip stream are ignored")
        self._inflate.skip(self._inflate.left)
        self.consumed = self.blob.size

    def _read(self) -> bytes:
        data = self.blob.pread(_INPUT, self.consumed)
        self.consumed += len(data)
        return data


class QuickPass(BlockPass):
    """The same, with more checkpoints and hardly compressed windows, because they are trimmed later."""

    spacing = compression.SPACING
    untrimmed = True

    def __init__(self, blob: ReaderAt, warn: Warn | None = None) -> None:
        super().__init__(blob, warn)
        self._pack = window_packer(level=-20)
