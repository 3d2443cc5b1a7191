"""Random access to a layer's uncompressed tar stream; each span is verified before it is decoded."""

import time
from collections.abc import Callable, Iterator

import msgspec
from msgspec.structs import replace

from ocifs.compression import Checkpoint, Decoder
from ocifs.compression.codecs import CODECS
from ocifs.compression.inflation import Inflation
from ocifs.errors import InvalidImageError
from ocifs.layer.index import LayerIndex
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.layer.span import Span
from ocifs.layer.span_cache import SpanCache
from ocifs.reader import BlobReader

_RUN = 1 << 20
"""Bytes decoded in one go: so many that inflating dominates their cost, so few that all processors share the work."""


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
    def lazy(self) -> list[LazyBlob]:
        """The files that were partly cached when the layer was opened: the blob, the index."""
        return [file for file in (self.blob, self.index.file) if isinstance(file, LazyBlob)]

    @property
    def partial(self) -> list[LazyBlob]:
        """The partly cached files."""
        return [file for file in self.lazy if not file.is_complete]

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
        run = _Run(self)
        for number, begin, end in self._cuts(size, offset):
            views += self._decoded(number, end, run).views(begin, end)
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

    def is_here(self, span: int) -> bool:
        """Whether a span exists, and this machine seems to have its stored bytes."""
        return span < self.index.span_count and self.has_stored(span)

    def has_stored(self, span: int) -> bool:
        """Whether this machine seems to have the stored bytes of a span."""
        return not isinstance(self.blob, LazyBlob) or self.blob.is_complete or self.blob.has(self.index, span)

    def decode(self, span: int) -> bytes:
        """Return a decoded span. Raises the errors of `pread`."""
        return self._decoded(span, self.span_size(span), _Run(self)).whole()

    def runs(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Cut the spans from `begin` to before `end` into runs of about 1 MiB: yield the first and last of each."""
        while begin < end:
            last = begin
            while last + 1 < end and self.is_run(begin, last + 1):
                last += 1
            yield begin, last
            begin = last + 1

    def is_run(self, first: int, last: int) -> bool:
        """Whether spans are short enough together to be decoded in one go."""
        return first == last or self.index.starts[last + 1] - self.index.starts[first] <= _RUN

    def decode_ahead(self, first: int, last: int) -> None:
        """Decode spans into the cache for a later reader, in one go. Raises the errors of `pread`.

        Skip spans that are decoded, or that another thread decodes.
        """
        run = _Run(self)
        for span in range(first, last + 1):
            if not self.is_decoded(span):
                self._decoded(span, self.span_size(span), run)

    def decode_run(self, first: int, last: int) -> Iterator[bytes]:
        """Yield decoded spans, those that are not cached in one go. Raises the errors of `pread`."""
        run = _Run(self)
        for span in range(first, last + 1):
            yield self._decoded(span, self.span_size(span), run).whole()

    def will_need(self, span: int) -> None:
        """Ask the kernel to read the stored bytes of a span, if that span exists."""
        if span < self.index.span_count:
            offset, stored = self.index.stored_range(span)
            self._stored.will_need(stored, offset)

    def stream(self) -> Iterator[bytes]:
        """Yield the decoded spans in order, without caching them.

        Decode each both from its checkpoint and by continuing the span before, because readers do either.

        Raises the errors of `pread`, and InvalidImageError if the results differ.
        """
        run = _Run(self)
        for number in range(self.index.span_count):
            data = run.load(number).whole()
            if run.continued and _Run(self).load(number).whole() != data:
                raise InvalidImageError(
                    f"layer {self.index.summary.blob_digest}: span {number} of its index does not continue the last one"
                )
            yield data

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

    def _decoded(self, number: int, end: int, run: "_Run") -> Span:
        """Return a span, decoded up to its byte `end` at least, as part of a run. Raises the errors of `pread`."""
        if self.verification.refuted is not None:
            raise InvalidImageError(self.verification.refuted)
        return self._cache.decoded(
            (self.number, number),
            self.span_size(number),
            end,
            lambda: run.load(number),
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
        """Return a decoder of a span with the verified bytes `data`. Raises as `Windows.window`."""
        return self._decode(data, self.index.checkpoint(span), self.span_size(span))

    def span_size(self, span: int) -> int:
        """Return the decoded bytes of a span."""
        return self.index.starts[span + 1] - self.index.starts[span]


class _Run:
    """Loads spans for one thread; the decoder of one continues with the next, which then needs no window."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._before: tuple[int, Decoder] | None = None
        """Number and decoder of the last load."""
        self.continued = False
        """Whether the last load continued the one before."""

    def load(self, number: int) -> Span:
        """Read and verify a span. Raises the errors of `Layer.pread`."""
        layer = self._layer
        is_first = self._before is None or self._before[0] != number - 1
        window = layer.index.windows.fetch(number) if is_first and not layer.has_stored(number) else None
        try:
            data = layer.stored(number)
            decoder = self._following(number, data)
            self.continued = decoder is not None
            decoder = decoder or layer.decoder(number, data)
        except OSError as error:
            raise OSError(error.errno, f"layer {layer.index.summary.blob_digest}: {error.strerror}") from error
        finally:
            if window is not None:
                window.join()  # it uses the file
        span = Span(layer.span_size(number), decoder)
        self._before = number, decoder
        return span

    def _following(self, number: int, data: bytes) -> Decoder | None:
        """Return the decoder of the last load if it can continue with this span, whose bytes are `data`."""
        layer = self._layer
        if self._before is None:
            return None
        before, decoder = self._before
        # The span itself may have been completed by another mount.
        if before != number - 1 or not isinstance(decoder, Inflation) or decoder.produced != layer.span_size(before):
            return None
        return decoder if decoder.follow(data, layer.index.summary.bits[number]) else None
