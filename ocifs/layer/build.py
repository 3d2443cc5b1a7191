"""Making a LayerIndex: one forward pass over a blob gives its TOC, diff ID and checkpoints, a second look its digests.

The pass decodes in one thread, hashes in another and reads tar headers in the caller's. The second look
(`second_look`) follows it where it can. Nothing is kept unless blob digest, blob size and diff ID are as promised.
Only what was found in the blob itself is held against the image: a cached index that does not fit is built anew.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import zstandard

from ocifs.compression import CHUNK, MAX_SPAN, Checkpoint, Chunk, Pass
from ocifs.compression.codecs import CODECS
from ocifs.compression.gzidx import GzidxPass
from ocifs.errors import InvalidImageError, OcifsError, printable_path
from ocifs.layer.index import KIND, LayerIndex, Summary, TocWriter, index_in, join_tail, pack_u64
from ocifs.layer.span_digests import MAX_STORED, SpanDigester
from ocifs.layer.tee import tee
from ocifs.limits import Limits, Total
from ocifs.reader import ReaderAt
from ocifs.sources.magic import HEAD, format_of, sniff_layer
from ocifs.spec.digest import CANONICAL, DiffID, Digest
from ocifs.spec.mediatypes import Compression
from ocifs.store import Store, StoredFile, Writer
from ocifs.toc import ChunkReader, read_entries

_MAX_WARNINGS = 100


class Progress(Protocol):
    """Is told how far the indexing of a layer is; called from several threads."""

    def __call__(self, layer: Digest, done: int, total: int) -> None:
        """Take note that `done` of `total` compressed bytes of `layer` are read."""
        ...


class LayerBlob(NamedTuple):
    """A layer as an image names it; its first bytes tell how it is compressed."""

    digest: Digest
    diff_id: DiffID
    blob: ReaderAt
    gzidx: str | None = None
    """A GZIDX file whose points are taken, instead of looking for any; they are proven as any would be."""
    decoded: Total | None = None
    """Counts the bytes to which all layers of the image inflate."""


class _Survey(NamedTuple):
    """What a pass found."""

    toc: TocWriter
    diff_ids: tuple[Digest, ...]
    """The sha256 of the stream, and its digest by the image's algorithm if that is another."""
    size: int
    checkpoints: list[Checkpoint]
    """Windows packed."""


def open_layer_index(
    layer: LayerBlob,
    store: Store,
    limits: Limits,
    warn: Callable[[str], None],
    progress: Progress,
    *,
    low_memory: bool = False,
) -> LayerIndex:
    """Return the layer's index, from the store or made now; with `low_memory` by the way that takes least of it.

    Raises:
        InvalidImageError: The blob is not what its digest, its size or the diff ID promise.
        UnsupportedError, LimitError: It holds what ocifs does not handle, or too much.
    """
    warnings: list[str] = []

    def note(message: str) -> None:
        if message not in warnings and len(warnings) < _MAX_WARNINGS:  # another pass says the same again
            warnings.append(message)
            warn(f"layer {layer.digest}: {message}")

    def build(out: Writer) -> None:
        _Build(layer, limits, note, progress, low_memory=low_memory).write(out, warnings)

    try:
        index = _of_layer(store.get(KIND, layer.digest, build), layer)
        if index is None:  # what is cached may be wrong, or lack an algorithm: only the blob itself can blame the image
            index = _of_layer(store.get(KIND, layer.digest, build, anew=True), layer)
        assert index is not None  # noqa: S101 - it was built of the layer just now
        if layer.decoded:
            layer.decoded.grow(layer.digest, index.size)
    except OcifsError as error:
        raise type(error)(f"layer {layer.digest}: {error}") from None
    return index


def _of_layer(file: StoredFile, layer: LayerBlob) -> LayerIndex | None:
    """Return the index in `file` if it is one of the layer; else close the file."""
    index = index_in(file, layer.digest)
    if index is None:
        return None
    if index.summary.blob_size == layer.blob.size and layer.diff_id in index.diff_ids:
        return index
    file.close()
    return None


def _check_diff_id(layer: LayerBlob, found: str) -> None:
    if found != layer.diff_id:
        raise InvalidImageError(f"its uncompressed digest is {found}, the image config says {layer.diff_id}")


class _Build:
    """The making of one index."""

    def __init__(
        self, layer: LayerBlob, limits: Limits, warn: Callable[[str], None], progress: Progress, *, low_memory: bool
    ) -> None:
        self.layer = layer
        self.blob = layer.blob
        self.limits = limits
        self.warn = warn
        self.progress = progress
        self.low_memory = low_memory
        self.look = SpanDigester(layer.digest, layer.blob)
        self.head = b""
        """The first bytes of the tar stream, or of what should be one."""

    def write(self, out: Writer, warnings: list[str]) -> None:
        """Write the whole index."""
        compression = sniff_layer(self.blob, "it")
        try:
            survey, frames = self._survey(out, compression)
        except InvalidImageError as error:
            raise self._explained(error) from None
        digests = self.look.finish([] if frames else survey.checkpoints)
        self.progress(self.layer.digest, self.blob.size, self.blob.size)
        if frames is None:
            windows = self._write_windows(survey.checkpoints, out)
        else:
            digests, windows = frames.digests, []
        points = frames.checkpoints if frames else survey.checkpoints
        summary = Summary(
            blob_digest=str(self.layer.digest),
            blob_size=self.blob.size,
            diff_id=str(survey.diff_ids[0]),
            size=survey.size,
            codec="zstd" if frames else compression,
            reframed=frames is not None,
            compression=compression if frames else "",
            entries=survey.toc.count,
            starts=pack_u64(point.start for point in points),
            offsets=pack_u64(point.offset for point in points),
            bits=bytes(point.bits for point in points),
            windows=pack_u64(windows),
            digests=b"".join(digests),
            warnings=tuple(warnings),
            diff_ids=tuple(map(str, survey.diff_ids[1:])),
        )
        out.write(join_tail(survey.toc.packed(), summary, out.size))

    def _explained(self, error: InvalidImageError) -> InvalidImageError:
        """Return an error that names the format of the bytes, if they are not those of a tar at all."""
        if not self.blob.size:
            return InvalidImageError(f"the blob is empty: {error}")
        found = format_of(self.head) if self.head else None
        return error if found is None else InvalidImageError(f"its uncompressed bytes are {found}, not a tar")

    def _survey(self, out: Writer, compression: Compression) -> tuple[_Survey, "_Frames | None"]:
        """Go through the blob; again, into frames, if that shows that its spans would be too long to decode."""
        if self.layer.gzidx is not None:
            return self._by_points(self.layer.gzidx), None
        ways = CODECS[compression].passes(self.blob, self.warn, self.limits, low_memory=self.low_memory)
        survey = None
        for begin in ways[:-1]:
            try:
                survey = self._go(begin(), None)
                break
            except InvalidImageError:
                continue
        if survey is None:
            reading = ways[-1]()
            frames = None if reading.restartable else _Frames(out)
            survey = self._go(reading, frames)
            if frames:
                return survey, frames
        if any(map(_too_long, survey.checkpoints, survey.checkpoints[1:])):
            frames = _Frames(out)
            return self._go(ways[-1](), frames), frames
        return survey, None

    def _by_points(self, path: str) -> _Survey:
        try:
            return self._go(GzidxPass(self.blob, path), None)
        except InvalidImageError as error:
            raise InvalidImageError(f"by the points of {printable_path(path)}: {error}") from None

    def _go(self, reading: Pass, frames: "_Frames | None") -> _Survey:
        hashers = {algorithm: hashlib.new(algorithm) for algorithm in (CANONICAL, self.layer.diff_id.algorithm)}
        updates = [hasher.update for hasher in hashers.values()]
        with (
            reading,
            tee(self._bounded(reading), *updates, lambda chunk: self.look.follow(reading.found)) as made,
        ):
            stream = ChunkReader(frames.written(made) if frames else made)
            toc = TocWriter()
            for entry in read_entries(stream, limits=self.limits, warn=self.warn):
                toc.add(entry)
            stream.drain()
            found = {each: Digest(f"{each}:{hasher.hexdigest()}") for each, hasher in hashers.items()}
            _check_diff_id(self.layer, found[self.layer.diff_id.algorithm])
            checkpoints = [] if frames else list(reading.checkpoints())
        return _Survey(toc, tuple(found.values()), stream.offset, checkpoints)

    def _bounded(self, reading: Pass) -> Iterator[Chunk]:
        """Give the chunks of the pass as long as they stay within the limits."""
        limits = self.limits
        produced = 0
        for chunk in reading.chunks():
            if not produced:
                self.head = bytes(chunk[:HEAD])
            produced += len(chunk)
            if produced > limits.uncompressed:
                raise limits.passed("uncompressed", f"it inflates to more than {limits.uncompressed} bytes")
            if produced > limits.ratio_from and produced > limits.ratio * max(reading.consumed, 1):
                raise limits.passed("ratio", f"it inflates to more than {limits.ratio} times its size")
            if self.layer.decoded:
                self.layer.decoded.grow(self.layer.digest, produced)
            self.progress(self.layer.digest, reading.consumed, self.blob.size)
            yield chunk

    @staticmethod
    def _write_windows(checkpoints: list[Checkpoint], out: Writer) -> list[int]:
        """Write the windows one after the other; return where each begins, or nothing if there is none."""
        if not any(point.window for point in checkpoints):
            return []
        places = []
        for point in checkpoints:
            places.append(out.size)
            out.write(point.window)
        return places


class _Frames:
    """The stream written anew as short zstd frames, each a span."""

    def __init__(self, out: Writer) -> None:
        self.out = out
        self.checkpoints = [Checkpoint(0, 0)]
        self.digests: list[bytes] = []
        self._compress = zstandard.ZstdCompressor(level=1).compress

    def written(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """Write each chunk, and pass it on."""
        start = 0
        for chunk in chunks:
            for place in range(0, len(chunk), CHUNK):
                frame = self._compress(chunk[place : place + CHUNK])
                self.digests.append(hashlib.sha256(frame).digest())
                self.out.write(frame)
                start += min(CHUNK, len(chunk) - place)
                self.checkpoints.append(Checkpoint(start, self.out.size))
            yield chunk
        if not self.digests:  # a layer of no bytes still has one span, an empty one
            self.digests.append(hashlib.sha256().digest())
            self.checkpoints.append(Checkpoint(0, 0))


def _too_long(begin: Checkpoint, end: Checkpoint) -> bool:
    """Whether the span would cost too much: in memory, or in compressed bytes that hold next to nothing."""
    return end.start - begin.start > MAX_SPAN or end.offset - begin.offset > MAX_STORED
