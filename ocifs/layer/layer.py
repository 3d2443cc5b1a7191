"""Reading anywhere in a layer's uncompressed tar stream, each span proven before it is decoded."""

import hashlib
from bisect import bisect_right
from collections.abc import Callable
from types import ModuleType

from ocifs.compression import gzip, plain, zstd
from ocifs.errors import InvalidImageError
from ocifs.layer.index import LayerIndex
from ocifs.layer.span_cache import SpanCache
from ocifs.reader import FileSection, ReaderAt

CODECS: dict[str, ModuleType] = {"tar": plain, "gzip": gzip, "zstd": zstd}
"""Compression, as media types name it, to the module that handles it (`ocifs.compression.Codec`)."""


class Layer:
    """A layer's tar stream as a `ReaderAt`: `number` is its place in the manifest, the base being 0."""

    def __init__(self, number: int, index: LayerIndex, blob: FileSection, cache: SpanCache) -> None:
        self.number = number
        self.index = index
        self.blob = blob
        self.size = index.size
        self._stored: ReaderAt = index.file if index.summary.reframed else blob
        self._decode = CODECS[index.summary.codec].decode
        self._cache = cache

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes of the tar stream at `offset`.

        Raises:
            InvalidImageError: A span is not what it was when the layer was indexed.
            OSError: The blob cannot be read.
        """
        data = self._read(size, offset, self.decode)
        assert data is not None  # noqa: S101 - every span was there
        return data

    def peek(self, size: int, offset: int) -> bytes | None:
        """Return what `pread` would if that needs no decoding, else None."""
        return self._read(size, offset, lambda span: self._cache.peek((self.number, span)))

    def span_at(self, offset: int) -> int:
        """Return the number of the span that holds the byte at `offset`, which lies in the stream."""
        return bisect_right(self.index.starts, offset) - 1

    def is_decoded(self, span: int) -> bool:
        """Whether a span is decoded, or being decoded; or there is no such span."""
        return span >= self.index.span_count or self._cache.has((self.number, span))

    def decode(self, span: int) -> bytes:
        """Return the bytes of a span. Raises what `pread` does."""
        return self._cache.get((self.number, span), lambda: self._load(span))

    def _read(self, size: int, offset: int, span_bytes: Callable[[int], bytes | None]) -> bytes | None:
        """Join what lies in each span; None where a span is not to be had."""
        end = min(offset + size, self.size)
        if offset >= end:
            return b""
        parts = []
        span = self.span_at(offset)
        while offset < end:
            data = span_bytes(span)
            if data is None:
                return None
            start = self.index.starts[span]
            parts.append(data[offset - start : end - start])
            offset += len(parts[-1])
            span += 1
        return b"".join(parts)

    def _load(self, span: int) -> bytes:
        index = self.index
        offset, stored = index.stored_range(span)
        data = self._stored.pread(stored, offset)
        if hashlib.sha256(data).digest() != index.digest(span):
            raise InvalidImageError(
                f"layer {index.summary.blob_digest}: bytes {offset}..{offset + stored} are not what they were when "
                "the layer was indexed: the blob was changed or damaged"
            )
        decoded: bytes = self._decode(data, index.checkpoint(span), index.starts[span + 1] - index.starts[span])
        return decoded
