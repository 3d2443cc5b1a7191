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
from ocifs.layer.index import ChunkedIndex, LayerIndex, index_in
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.limits import Limits
from ocifs.sources.magic import HEAD, compression_of
from ocifs.sources.resolve import ImageLayer, ResolvedImage
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest
from ocifs.store import Build, Kind, Store, StoredFile
from ocifs.toc.check import check_entries

T = TypeVar("T")

CONVERTED = Kind("converted", 1)

_ENTRY_MIN = 64
"""Minimum bytes of a TOC entry, on average over very many entries."""

_ARTIFACTS_MAX = 16
"""How many artifacts of one type are read."""

_STORED_MAX = 2 * MAX_SPAN + 1
"""Maximum bytes of a span as stored; ocifs itself makes no larger span."""

Runs = tuple[tuple[int, int], ...]
"""(first, last) spans of a layer."""

Read = Callable[[int, int], bytes]
"""Returns the bytes of a blob in the half-open range (begin, end)."""


class Candidate(NamedTuple):
    """A published document that yields the LayerIndex of a layer."""

    layer: Digest
    """The blob that it claims to describe."""
    format: str
    """The published format, such as `ocifs` or `soci-v1`."""
    digest: Digest
    """Digest of the published document: an index, a zTOC or a TOC."""
    size: int | None
    """Bytes of the document; None: unknown until it is fetched."""
    bound: bool
    """Whether the image's manifest commits to it: then it may be used for a reference by digest."""
    open: Callable[[], LayerIndex]
    """Fetches it, converts it if necessary, and validates it structurally. Raises OcifsError."""
    prefetch: Callable[[LayerIndex], Runs] = lambda index: ()
    """Fetches the list of spans that the image reads first when it starts. Raises OcifsError."""
    artifact: Digest | None = None
    """The artifact that contains it; None: the image's own layer."""
    pack: Descriptor | None = None
    """The hot pack in the same artifact."""
    is_index: bool = False
    """Whether the published document is the LayerIndex itself."""

    def __str__(self) -> str:
        return f"{self.format} {self.digest}"

    def to_json(self) -> dict[str, str | int | bool | None]:
        """Return its JSON form."""
        return {
            "layer": str(self.layer),
            "format": self.format,
            "digest": str(self.digest),
            "size": self.size,
            "bound": self.bound,
            "artifact": self.artifact and str(self.artifact),
        }


class LookupContext(NamedTuple):
    """What a provider needs to find candidates and to open them."""

    source: Source
    resolved: ResolvedImage
    store: Store
    limits: Limits
    closing: ExitStack
    """Closes the opened files."""

    def layers(self) -> dict[Digest, ImageLayer]:
        """Return the layers of the image, by the digests of their blobs."""
        return {layer.descriptor.digest: layer for layer in self.resolved.layers}

    def reader(self, layer: ImageLayer) -> Read:
        """Return a function that reads a range of a layer's blob, without fetching the whole blob where possible."""
        match self.source.open_lazily(layer.descriptor):
            case LazyBlob() as partial:
                return partial.fill
            case complete:
                return lambda begin, end: complete.pread(end - begin, begin)

    def check(self, index: LayerIndex, layer: ImageLayer) -> LayerIndex:
        """Return a foreign index that can describe the layer.

        Reads the blob's first bytes if its media type contradicts the index.

        Raises:
            InvalidImageError: It cannot describe the layer.
            LimitError: It exceeds the limits of a layer.
            NotFoundError, RegistryError: The blob cannot be read.
        """
        codec = index.summary.codec
        if codec != layer.compression:
            head = self.reader(layer)(0, min(HEAD, layer.descriptor.size))
            if codec != compression_of(head):
                raise InvalidImageError("the index says another compression than the layer has")
        return check_index(index, layer, self.limits)

    def converted(self, layer: ImageLayer, source: Digest, build: Build) -> LayerIndex:
        """Return the LayerIndex that `build` converts from the document with digest `source`, or the cached result.

        Raises the errors of `build`.
        """
        subject = _subject(layer, source)
        index = self._opened(self.store.get(CONVERTED, subject, build), layer)
        if index is None:
            index = self._opened(self.store.get(CONVERTED, subject, build, anew=True), layer)
        assert index is not None  # noqa: S101 - it was built of the layer just now
        return index

    def converted_before(self, layer: ImageLayer, source: Digest) -> LayerIndex | None:
        """Return the cached result of `converted`."""
        file = self.store.load(CONVERTED, _subject(layer, source))
        return None if file is None else self._opened(file, layer)

    def _opened(self, file: StoredFile, layer: ImageLayer) -> LayerIndex | None:
        index = index_in(file, layer.descriptor.digest)
        if index is not None:
            self.closing.callback(file.close)
        return index


def _subject(layer: ImageLayer, source: Digest) -> str:
    return Digest.of(f"{source} {layer.descriptor.digest} {layer.descriptor.size} {layer.diff_id}".encode())


class Provider(NamedTuple):
    """A format in which LayerIndexes are published."""

    name: str
    can_bind: bool
    """Whether a manifest can commit to this format: other formats are skipped where only bound candidates may be
used."""
    find: Callable[[LookupContext], Iterator[list[Candidate]]]
    """Yields lists of candidates, the best first, each with at most one candidate per layer. Raises OcifsError."""


def read_each(read: Callable[[T], list[Candidate]], artifacts: Iterable[T]) -> Iterator[list[Candidate]]:
    """Yield the candidates that `read` finds in each artifact, at most 16 artifacts.

    The first error of `read` is raised after the candidates of all other artifacts.
    """
    first_error: OcifsError | None = None
    for artifact in islice(artifacts, _ARTIFACTS_MAX):
        try:
            candidates = read(artifact)
        except OcifsError as error:
            first_error = first_error or error
        else:
            yield candidates
    if first_error is not None:
        raise first_error


def check_index(index: LayerIndex, layer: ImageLayer, limits: Limits) -> LayerIndex:
    """Return a foreign index if it can describe `layer`.

    Raises:
        InvalidImageError: It cannot describe the layer.
        LimitError: It exceeds the limits of a layer.
    """
    stated = (index.summary.blob_digest, index.summary.blob_size)
    if stated != (layer.descriptor.digest, layer.descriptor.size) or index.summary.reframed:
        raise InvalidImageError("the index is of another layer")
    algorithms = [Digest(each).algorithm for each in index.diff_ids]
    if layer.diff_id not in index.diff_ids or len(set(algorithms)) < len(algorithms):
        raise InvalidImageError("the index is of another layer")
    if index.size > limits.uncompressed:
        raise limits.passed("uncompressed", f"it says {index.size} bytes")
    stored = max(index.stored_range(span)[1] for span in range(index.span_count))
    if stored > (limits.toc if isinstance(index, ChunkedIndex) else _STORED_MAX):  # a TOC may itself be a file
        raise InvalidImageError("the index has a span of more bytes than ocifs reads for one span")
    if index.toc_size > _ENTRY_MIN * limits.entries:  # before decompression
        raise limits.passed("entries", f"{index.toc_size} bytes of tar entries")
    check_entries(index.entries(), index.size, limits)
    return index
