"""A candidate: something published about a layer that yields a LayerIndex.

A `Provider` finds the candidates of one format; `ocifs.indexes.selection` chooses among them. Before it is opened, a
candidate costs only the documents that list it. Another format is converted to a LayerIndex once; the cache keeps the
result under the digests of its source and of the layer.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import NamedTuple, TypeVar

from ocifs.blobs.source import Source
from ocifs.compression import MAX_SPAN
from ocifs.errors import InvalidImageError, OcifsError
from ocifs.layer.index import LayerIndex, index_in
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.limits import Limits
from ocifs.sources.magic import HEAD, compression_of
from ocifs.sources.resolve import ImageLayer, ResolvedImage
from ocifs.spec.digest import Digest
from ocifs.store import Build, Kind, Store, StoredFile
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


class Candidate(NamedTuple):
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


class LookupContext(NamedTuple):
    """Where offers are looked for, and what is needed to open one."""

    source: Source
    resolved: ResolvedImage
    store: Store
    limits: Limits
    closing: ExitStack
    """Closes what was opened."""

    def layers(self) -> dict[Digest, ImageLayer]:
        """Return the layers of the image, by the digests of their blobs."""
        return {layer.descriptor.digest: layer for layer in self.resolved.layers}

    def reader(self, layer: ImageLayer) -> Read:
        """Return how to read of a layer's blob what is wanted of it, and not all, if that can be."""
        match self.source.open_lazily(layer.descriptor):
            case LazyBlob() as partial:
                return partial.fill
            case complete:
                return lambda begin, end: complete.pread(end - begin, begin)

    def check(self, index: LayerIndex, layer: ImageLayer) -> LayerIndex:
        """Return an index of somebody else's; the blob's first bytes are read if its media type contradicts the index.

        Raises:
            InvalidImageError: It cannot be true.
            LimitError: It holds more than a layer may.
            NotFoundError, RegistryError: The blob cannot be read.
        """
        codec = index.summary.codec
        if codec != layer.compression:
            head = self.reader(layer)(0, min(HEAD, layer.descriptor.size))
            if codec != compression_of(head):
                raise InvalidImageError("the index is of a layer that is compressed otherwise")
        return check_index(index, layer, self.limits)

    def converted(self, layer: ImageLayer, source: Digest, build: Build) -> LayerIndex:
        """Return the LayerIndex that `build` makes of what has the digest `source`, or has made before.

        Raises what `build` raises.
        """
        subject = _subject(layer, source)
        index = self._kept(self.store.get(CONVERTED, subject, build), layer)
        if index is None:
            index = self._kept(self.store.get(CONVERTED, subject, build, anew=True), layer)
        assert index is not None  # noqa: S101 - it was built of the layer just now
        return index

    def made(self, layer: ImageLayer, source: Digest) -> LayerIndex | None:
        """Return what `converted` has made before."""
        file = self.store.load(CONVERTED, _subject(layer, source))
        return None if file is None else self._kept(file, layer)

    def _kept(self, file: StoredFile, layer: ImageLayer) -> LayerIndex | None:
        index = index_in(file, layer.descriptor.digest)
        if index is not None:
            self.closing.callback(file.close)
        return index


def _subject(layer: ImageLayer, source: Digest) -> str:
    return Digest.of(f"{source} {layer.descriptor.digest} {layer.descriptor.size} {layer.diff_id}".encode())


class Provider(NamedTuple):
    """A form in which LayerIndexes are published."""

    name: str
    can_bind: bool
    """Whether a manifest can commit to what is published so: else nothing is asked where only that may be used."""
    find: Callable[[LookupContext], Iterator[list[Candidate]]]
    """Give what is offered, the best first: in each list one offer for a layer at most. Raises OcifsError."""


def readable(read: Callable[[T], list[Candidate]], artifacts: Iterable[T]) -> Iterator[list[Candidate]]:
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


def check_index(index: LayerIndex, layer: ImageLayer, limits: Limits) -> LayerIndex:
    """Return an index that somebody else has made, if it can be one of `layer`.

    Raises:
        InvalidImageError: It cannot be true.
        LimitError: It holds more than a layer may.
    """
    told = (index.summary.blob_digest, index.summary.blob_size)
    if told != (layer.descriptor.digest, layer.descriptor.size) or index.summary.reframed:
        raise InvalidImageError("the index is of another layer")
    algorithms = [Digest(each).algorithm for each in index.diff_ids]
    if layer.diff_id not in index.diff_ids or len(set(algorithms)) < len(algorithms):
        raise InvalidImageError("the index is of another layer")
    if index.size > limits.uncompressed:
        raise limits.passed("uncompressed", f"it tells of {index.size} bytes")
    stored = max(index.stored_range(span)[1] for span in range(index.span_count))
    if stored > (limits.toc if index.summary.toc else _STORED_MOST):  # a TOC may itself be a file
        raise InvalidImageError("the index has a span of more bytes than are read for one")
    if index.toc_size > _ENTRY * limits.entries:  # before it is unpacked
        raise limits.passed("entries", f"{index.toc_size} bytes of tar entries")
    check_entries(index.entries(), index.size, limits)
    return index
