"""An offer: what somebody has published of a layer, from which a LayerIndex can be had.

Who looks for offers is a `Provider`, one for each form in which things are published; `ocifs.image.offers` chooses. An
offer costs nothing before it is opened but the documents that list it. What is not a LayerIndex as it comes is
converted into one, once: the cache keeps it under what it came from and what it was said to be of.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import NamedTuple, TypeVar

from ocifs.compression import MAX_SPAN
from ocifs.errors import InvalidImageError, OcifsError
from ocifs.image.kept import KeptSource
from ocifs.layer.index import LayerIndex
from ocifs.layer.lazy import LazyBlob
from ocifs.limits import Limits
from ocifs.sources.resolve import Layer, ResolvedImage
from ocifs.sources.source import Source
from ocifs.spec.digest import Digest
from ocifs.store import Build, Kind, Store
from ocifs.toc.check import check_entries

T = TypeVar("T")

CONVERTED = Kind("converted", 1)

_ENTRY = 64
"""Bytes of an entry in a TOC, as few as they may be on average where there are very many."""

_ARTIFACTS_MOST = 16
"""How many artifacts of one type are looked into."""

_STORED_MOST = 2 * MAX_SPAN + 1
"""Bytes of a span as stored; where there would be more, ocifs itself makes no such span."""

Runs = tuple[tuple[int, int], ...]
"""(first, last) spans of a layer."""

Read = Callable[[int, int], bytes]
"""Returns the bytes of a blob from the first number to the second."""


class Offer(NamedTuple):
    """A LayerIndex that somebody has published of a layer."""

    layer: Digest
    """The blob that it says to be of."""
    format: str
    """As what it was published, such as `ocifs` or `soci-v1`."""
    digest: Digest
    """Of what was published: an index, a zTOC, a TOC."""
    size: int | None
    """Bytes of that; None: nothing tells before it is fetched."""
    bound: bool
    """Whether the image's manifest commits to it: then it may be used for a reference by digest."""
    open: Callable[[], LayerIndex]
    """Fetches it, converts it if need be, and holds it against every rule. Raises OcifsError."""
    prefetch: Callable[[LayerIndex], Runs] = lambda index: ()
    """Fetches which spans are wanted first by whoever starts. Raises OcifsError."""
    artifact: Digest | None = None
    """The artifact that it lies in; None: the image's own layer."""

    def __str__(self) -> str:
        return f"{self.format} {self.digest}"

    def described(self) -> dict[str, str | int | bool | None]:
        """Return what is to be said of it."""
        return {
            "layer": str(self.layer),
            "format": self.format,
            "digest": str(self.digest),
            "size": self.size,
            "bound": self.bound,
            "artifact": self.artifact and str(self.artifact),
        }


class Place(NamedTuple):
    """Where offers are looked for, and what is needed to open one."""

    source: Source
    resolved: ResolvedImage
    store: Store
    limits: Limits
    closing: ExitStack
    """Closes what was opened."""

    def layers(self) -> dict[Digest, Layer]:
        """Return the layers of the image, by the digests of their blobs."""
        return {layer.descriptor.digest: layer for layer in self.resolved.layers}

    def reader(self, layer: Layer) -> Read:
        """Return how to read of a layer's blob what is wanted of it, and not all, if that can be."""
        source = self.source
        blob = source.open_part(layer.descriptor) if isinstance(source, KeptSource) else source.open(layer.descriptor)
        if isinstance(blob, LazyBlob):
            return blob.fill
        return lambda begin, end: blob.pread(end - begin, begin)

    def converted(self, layer: Layer, source: Digest, build: Build) -> LayerIndex:
        """Return the LayerIndex that `build` makes of what has the digest `source`, or has made before.

        Raises what `build` raises.
        """
        file = self.store.get(CONVERTED, _subject(layer, source), build)
        self.closing.callback(file.close)
        return LayerIndex(file)

    def made(self, layer: Layer, source: Digest) -> LayerIndex | None:
        """Return what `converted` has made before."""
        file = self.store.load(CONVERTED, _subject(layer, source))
        if file is None:
            return None
        self.closing.callback(file.close)
        return LayerIndex(file)


def _subject(layer: Layer, source: Digest) -> str:
    return Digest.of(f"{source} {layer.descriptor.digest} {layer.descriptor.size} {layer.diff_id}".encode())


class Provider(NamedTuple):
    """A form in which LayerIndexes are published."""

    name: str
    can_bind: bool
    """Whether a manifest can commit to what is published so: else nothing is asked where only that may be used."""
    find: Callable[[Place], Iterator[list[Offer]]]
    """Give what is offered, the best first: in each list one offer for a layer at most. Raises OcifsError."""


def all_that_can_be(read: Callable[[T], list[Offer]], artifacts: Iterable[T]) -> Iterator[list[Offer]]:
    """Give what `read` makes of each artifact, up to a number that nobody needs.

    The first error that `read` raises comes when all others were given.
    """
    wrong: OcifsError | None = None
    for artifact in islice(artifacts, _ARTIFACTS_MOST):
        try:
            offers = read(artifact)
        except OcifsError as error:
            wrong = wrong or error
        else:
            yield offers
    if wrong is not None:
        raise wrong


def check_index(index: LayerIndex, layer: Layer, limits: Limits) -> LayerIndex:
    """Return an index that somebody else has made, if it can be one of `layer`.

    Raises:
        InvalidImageError: It cannot be true.
        LimitError: It holds more than a layer may.
    """
    told = (index.summary.blob_digest, index.summary.blob_size, index.summary.diff_id)
    if told != (layer.descriptor.digest, layer.descriptor.size, layer.diff_id) or index.summary.reframed:
        raise InvalidImageError("the index is of another layer")
    if index.summary.codec != layer.compression:
        raise InvalidImageError("the index is of a layer that is compressed otherwise")
    if index.size > limits.uncompressed:
        raise limits.passed("uncompressed", f"it tells of {index.size} bytes")
    stored = max(index.stored_range(span)[1] for span in range(index.span_count))
    if stored > (limits.toc if index.summary.toc else _STORED_MOST):  # a TOC may itself be a file
        raise InvalidImageError("the index has a span of more bytes than are read for one")
    if index.toc_size > _ENTRY * limits.entries:  # before it is unpacked
        raise limits.passed("entries", f"{index.toc_size} bytes of tar entries")
    check_entries(index.entries(), index.size, limits)
    return index
