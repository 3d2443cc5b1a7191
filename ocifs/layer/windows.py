"""The windows of a LayerIndex: what decoding a span on its own needs of the tar stream before it, a zstd frame each.

A published index states the digest of each window. So its file may lack them: the first reader that needs a missing
window fetches it, and the ones after it (`LazyBlob`). A window with a digest is verified at each use, because other
processes may write to a partly cached file. The checksum of its frame detects damage of others.
"""

import hashlib
from itertools import pairwise

from ocifs.compression.zstd_frame import unpack
from ocifs.errors import InvalidImageError
from ocifs.layer.index_format import SPAN_DIGEST_SIZE, Summary, unpack_u64
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.reader import FileReader

_WINDOW_MAX = 1 << 15
_STORED_MAX = _WINDOW_MAX + (4 << 10)
"""Bytes of a window as stored: zstd adds less than 1 KiB to bytes that it cannot compress."""


class Windows:
    """The windows in the data section of an index file, one for each span."""

    def __init__(self, file: FileReader, summary: Summary) -> None:
        self.name = f"the index of layer {summary.blob_digest}"
        """Its name in errors."""
        self._file = file
        self._layer = summary.blob_digest
        self._offsets = unpack_u64(summary.windows)
        self._digests = summary.window_digests

    @property
    def span_count(self) -> int:
        """Number of windows; 0 if no span needs one."""
        return max(len(self._offsets) - 1, 0)

    @property
    def are_verifiable(self) -> bool:
        """Whether each has a digest."""
        return len(self._digests) == self.span_count * SPAN_DIGEST_SIZE

    def stored_range(self, span: int) -> tuple[int, int]:
        """Return (offset, size) of a window in the file."""
        return self._offsets[span], self._offsets[span + 1] - self._offsets[span]

    def verified(self, span: int, stored: bytes) -> bytes | None:
        """Return `stored` if it has the digest of the window, else None."""
        digest = self._digests[span * SPAN_DIGEST_SIZE : (span + 1) * SPAN_DIGEST_SIZE]
        return stored if hashlib.sha256(stored).digest() == digest else None

    def window(self, span: int) -> bytes:
        """Return the window of a span, which may be empty.

        Raises:
            InvalidImageError: The file, or the registry, has other bytes.
            NotFoundError, RegistryError: The window is missing, and cannot be fetched.
        """
        if not self._offsets:
            return b""
        offset, size = self.stored_range(span)
        if not size:
            return b""
        if isinstance(self._file, LazyBlob):
            return unpack(self._file.span(self, span), _WINDOW_MAX)
        stored = self._file.pread(size, offset)
        if self._digests and self.verified(span, stored) is None:
            raise self._damaged(span, "it has another digest")
        try:
            return unpack(stored, _WINDOW_MAX)
        except InvalidImageError as error:
            raise self._damaged(span, str(error)) from None

    def _damaged(self, span: int, why: str) -> InvalidImageError:
        return InvalidImageError(f"layer {self._layer}: window of span {span}: {why}: the cache was changed or damaged")

    def agree(self, count: int, data_size: int) -> bool:
        """Whether no window leaves a data section of `data_size` bytes, for `count` checkpoints."""
        sizes = [end - begin for begin, end in pairwise(self._offsets)]
        return (
            len(self._offsets) in (0, count)
            and len(self._digests) in (0, self.span_count * SPAN_DIGEST_SIZE)
            and all(0 <= size <= _STORED_MAX for size in sizes)
            and (not self._offsets or self._offsets[-1] <= data_size)
        )
