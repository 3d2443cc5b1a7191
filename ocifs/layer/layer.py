"""Random access to a layer's uncompressed tar stream; each span is verified before it is decoded."""

import time
from collections.abc import Callable, Iterator

import msgspec
from msgspec.structs import replace

from ocifs.compression import Checkpoint, Decoder
from ocifs.compression.codecs import CODECS
from ocifs.errors import InvalidImageError
from ocifs.layer.index import LayerIndex
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.layer.span import Span
from ocifs.layer.span_cache import SpanCache
from ocifs.reader import BlobReader


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a layer was verified against its whole blob: unverified, verified or refuted."""

    published: str | None
    """Format and digest of the published document that the LayerIndex comes from; None: built, so verified, here."""
    at: float | None = None
    """When a published index was verified, in seconds since the epoch; None: not yet."""
    refuted: str | None = None
    """Why nothing of the layer can be trusted."""

    @property
    def is_verified(self) -> bool:
        """Whether blob and index were verified, and nothing has refuted them."""
        return self.refuted is None and (self.published is None or self.at is not None)


class Layer:
    """A layer's tar stream as a `ReaderAt`; `number` is its position in the manifest, the base being 0."""

    def __init__(
        self, number: int, index: LayerIndex, blob: BlobReader, cache: SpanCache, published: str | None = None
    ) -> None:
        self.number = number
        self.index = index
        self.blob = blob
        self.prefetch: tuple[tuple[int, int], ...] = ()
        """(first, last) spans that the image reads first when it starts, in order."""
        self.verification = Verification(published=published)
        """Changed by `conclude` only."""
        self.size = index.size
        self._stored: BlobReader = index.file if index.summary.reframed else blob
        self._decode: Callable[[bytes, Checkpoint, int], Decoder] = CODECS[index.span_codec].decode
        self._cache = cache

    def conclude(self, refuted: str | None = None) -> None:
        """Record the result of a verification: verified now, or `refuted` for this reason, which ends all reads."""
        if refuted is None:
            self.verification = replace(self.verification, at=time.time())
        else:
            self.verification = replace(self.verification, refuted=refuted)

    @property
    def verified_at(self) -> float | None:
        """When blob and diff ID were verified, in seconds since the epoch; None: not yet."""
        return self.index.made if self.verification.published is None else self.verification.at

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes of the tar stream at `offset`.

        Raises:
            InvalidImageError: A span has changed since the layer was indexed.
            NotFoundError, RegistryError: It is missing and cannot be fetched.
            OSError: The blob cannot be read.
        """
        return b"".join(self.views(size, offset))

    def views(self, size: int, offset: int) -> list[memoryview]:
        """Return the same as `pread` without copying, as views of the decoded spans."""
        views: list[memoryview] = []
        for number, begin, end in self._cuts(size, offset):
            views += self._decoded(number, end).views(begin, end)
        return views

    def views_at_hand(self, size: int, offset: int) -> list[memoryview] | None:
        """Return the same as `views` if that needs no decoding, else None."""
        if self.verification.refuted is not None:
            return None
        views: list[memoryview] = []
        for number, begin, end in self._cuts(size, offset):
            span = self._cache.peek((self.number, number))
            if span is None or span.decoded < end:
                return None
            views += span.views(begin, end)
        return views

    def span_at(self, offset: int) -> int:
        """Return the span with the byte at `offset`, which must be in the stream."""
        return self.index.span_at(offset)

    def is_decoded(self, span: int) -> bool:
        """Whether a span is decoded, is being decoded, or does not exist."""
        return span >= self.index.span_count or self._cache.has((self.number, span))

    def decode(self, span: int) -> bytes:
        """Return a decoded span. Raises the errors of `pread`."""
        return self._all_of(span).whole()

    def decode_ahead(self, span: int) -> None:
        """Decode a span into the cache for a later reader. Raises the errors of `pread`."""
        self._all_of(span)

    def will_need(self, span: int) -> None:
        """Ask the kernel to read the stored bytes of a span, if that span exists."""
        if span < self.index.span_count:
            offset, stored = self.index.stored_range(span)
            self._stored.will_need(stored, offset)

    def stream(self) -> Iterator[bytes]:
        """Yield the decoded spans in order, without caching them. Raises the errors of `pread`."""
        return (self._load(number).whole() for number in range(self.index.span_count))

    def _cuts(self, size: int, offset: int) -> Iterator[tuple[int, int, int]]:
        """Yield (span, begin, end) for the part of a range in each span."""
        stop = min(offset + size, self.size)
        if offset >= stop:
            return
        number = self.span_at(offset)
        while offset < stop:
            start, border = self.index.starts[number : number + 2]
            end = min(stop, border)
            if offset < end:
                yield number, offset - start, end - start
            offset = end
            number += 1

    def _all_of(self, number: int) -> Span:
        return self._decoded(number, self.span_size(number))

    def _decoded(self, number: int, end: int) -> Span:
        """Return a span, decoded up to its byte `end` at least. Raises the errors of `pread`."""
        if self.verification.refuted is not None:
            raise InvalidImageError(self.verification.refuted)
        return self._cache.decoded(
            (self.number, number),
            self.span_size(number),
            end,
            lambda: self._load(number),
            shared=self.verification.is_verified,
        )

    def stored(self, span: int) -> bytes:
        """Return a span's verified bytes as in `LayerIndex.verified`. Raises the errors of `pread`."""
        index = self.index
        if isinstance(self._stored, LazyBlob):
            return self._stored.span(index, span)
        offset, stored = index.stored_range(span)
        data = index.verified(span, self._stored.pread(stored, offset))
        if data is None:
            raise InvalidImageError(
                f"layer {index.summary.blob_digest}: bytes {offset}..{offset + stored} are not what they were when "
                f"the layer was indexed: the {'cache' if index.summary.reframed else 'blob'} was changed or damaged"
            )
        return data

    def decoder(self, span: int, data: bytes) -> Decoder:
        """Return a decoder of a span with the verified bytes `data`. Raises InvalidImageError."""
        return self._decode(data, self.index.checkpoint(span), self.span_size(span))

    def span_size(self, span: int) -> int:
        """Return the decoded bytes of a span."""
        return self.index.starts[span + 1] - self.index.starts[span]

    def _load(self, span: int) -> Span:
        """Read and verify a span. Raises the errors of `pread`."""
        try:
            return Span(self.span_size(span), self.decoder(span, self.stored(span)))
        except OSError as error:
            raise OSError(error.errno, f"layer {self.index.summary.blob_digest}: {error.strerror}") from error
