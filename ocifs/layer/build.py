"""Build a LayerIndex: one forward pass over a blob finds TOC, diff ID and checkpoints; a second reading takes digests.

The pass decodes in one thread, hashes in another, and reads tar headers in the caller's. The second reading
(`ocifs.layer.span_digests`) follows it where it can. An index is only stored if blob digest, blob size and diff ID are
correct. Only the blob itself can make an image invalid: a cached index that does not match is rebuilt.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, Protocol

import zstandard

from ocifs.compression import CHUNK, MAX_SPAN, Checkpoint, Chunk, Pass
from ocifs.compression.codecs import CODECS
from ocifs.compression.gzidx import GzidxPass
from ocifs.errors import InvalidImageError, OcifsError, printable_path
from ocifs.layer.index import LayerIndex, index_in
from ocifs.layer.index_format import KIND, Summary, TocWriter, join_tail, pack_u64
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


class IndexingProgress(Protocol):
    """A callback for the progress of indexing a layer; several threads call it."""

    def __call__(self, layer: Digest, done: int, total: int, /) -> None:
        """Report that `done` of `total` compressed bytes of `layer` are read."""
        ...


class LayerBlob(NamedTuple):
    """A layer as listed in an image; its first bytes show its compression."""

    digest: Digest
    diff_id: DiffID
    blob: ReaderAt
    gzidx: str | None = None
    """A GZIDX file with checkpoints to use instead of searching for any; they are verified all the same."""
    decoded: Total | None = None
    """Counts the uncompressed bytes of all layers of the image."""
    archive: str | None = None
    """Name in errors of an archive of images, which has no diff ID: any stream is accepted, and entries count as
    members. None: it is a layer."""
    quick: bool = False
    """Whether the windows of a new index may be left to `ocifs.layer.trimming`."""

    @property
    def name(self) -> str:
        """Name in errors and warnings."""
        return f"layer {self.digest}" if self.archive is None else self.archive


class _Survey(NamedTuple):
    """The results of a pass."""

    toc: TocWriter
    diff_ids: tuple[Digest, ...]
    """The sha256 of the stream, and its digest by the image's algorithm if that differs."""
    size: int
    checkpoints: list[Checkpoint]
    """Their windows are compressed."""
    untrimmed: bool
    """Whether their windows are whole, and to be trimmed."""


def open_layer_index(
    layer: LayerBlob,
    store: Store,
    limits: Limits,
    warn: Callable[[str], None],
    progress: IndexingProgress,
    *,
    low_memory: bool = False,
) -> LayerIndex:
    """Return the layer's index, from the store or newly built; `low_memory` selects the pass that needs least memory.

    `progress` is also called while another process builds the index; its exception ends the wait.

    Raises:
        InvalidImageError: The blob does not have its digest, its size or the diff ID.
        UnsupportedError, LimitError: It contains something that ocifs does not handle, or too much.
    """
    warnings: list[str] = []

    def note(message: str) -> None:
        if message not in warnings and len(warnings) < _MAX_WARNINGS:  # a second pass repeats the warnings of the first
            warnings.append(message)
            warn(f"{layer.name}: {message}")

    def build(out: Writer) -> None:
        _Build(layer, limits, note, progress, low_memory=low_memory).write(out, warnings)

    def check() -> None:
        progress(layer.digest, 0, layer.blob.size)

    try:
        index = _of_layer(store.get(KIND, layer.digest, build, check=check), layer)
        if index is None:  # the cached index may be wrong, or lack an algorithm
            index = _of_layer(store.get(KIND, layer.digest, build, anew=True, check=check), layer)
        assert index is not None  # noqa: S101 - it was built of the layer just now
        if layer.decoded:
            layer.decoded.grow(layer.digest, index.size)
    except OcifsError as error:
        raise type(error)(f"{layer.name}: {error}") from None
    return index


def _of_layer(file: StoredFile, layer: LayerBlob) -> LayerIndex | None:
    """Return the index in `file` if it matches the layer; else close the file."""
    index = index_in(file, layer.digest)
    if index is None:
        return None
    has_stream = layer.archive is not None or layer.diff_id in index.diff_ids
    if index.summary.blob_size == layer.blob.size and has_stream:
        return index
    file.close()
    return None


def _check_diff_id(layer: LayerBlob, found: str) -> None:
    if found != layer.diff_id and layer.archive is None:
        raise InvalidImageError(f"its uncompressed digest is {found}, the image config says {layer.diff_id}")


class _Build:
    """Builds one index."""

    def __init__(
        self,
        layer: LayerBlob,
        limits: Limits,
        warn: Callable[[str], None],
        progress: IndexingProgress,
        *,
        low_memory: bool,
    ) -> None:
        self.layer = layer
        self.blob = layer.blob
        self.limits = limits
        self.warn = warn
        self.progress = progress
        self.low_memory = low_memory
        self.digester = SpanDigester(layer.digest, layer.blob)
        self.head = b""
        """The first decoded bytes, of a tar stream or of something else."""

    def write(self, out: Writer, warnings: list[str]) -> None:
        """Write the whole index."""
        compression = sniff_layer(self.blob, "it")
        try:
            survey, frames = self._survey(out, compression)
        except InvalidImageError as error:
            raise self._explained(error) from None
        digests = self.digester.finish([] if frames else survey.checkpoints)
        self.progress(self.layer.digest, self.blob.size, self.blob.size)
        if frames is None:
            windows = self._write_windows(survey.checkpoints, out)
        else:
            digests, windows = frames.digests, []
        out.durable = not survey.untrimmed  # else it is soon replaced, and a disk may take longer than the index
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
            untrimmed=survey.untrimmed and frames is None,
        )
        out.write(join_tail(survey.toc.packed(), summary, out.size))

    def _explained(self, error: InvalidImageError) -> InvalidImageError:
        """Return an error that names the format of the decoded bytes, if they are not a tar at all."""
        if not self.blob.size:
            return InvalidImageError(f"the blob is empty: {error}")
        found = format_of(self.head) if self.head else None
        return error if found is None else InvalidImageError(f"its uncompressed bytes are {found}, not a tar")

    def _survey(self, out: Writer, compression: Compression) -> tuple[_Survey, "_Frames | None"]:
        """Read the blob; if its spans would be too long to decode, read it again and store it as frames."""
        if self.layer.gzidx is not None:
            return self._by_points(self.layer.gzidx), None
        passes = CODECS[compression].passes(
            self.blob, self.warn, self.limits, low_memory=self.low_memory, quick=self.layer.quick
        )
        survey = None
        for begin_pass in passes[:-1]:
            try:
                survey = self._run_pass(begin_pass(), None)
                break
            except InvalidImageError:
                continue
        if survey is None:
            reading = passes[-1]()
            frames = None if reading.restartable else _Frames(out)
            survey = self._run_pass(reading, frames)
            if frames:
                return survey, frames
        if any(map(_too_long, survey.checkpoints, survey.checkpoints[1:])):
            frames = _Frames(out)
            return self._run_pass(passes[-1](), frames), frames
        return survey, None

    def _by_points(self, path: str) -> _Survey:
        try:
            return self._run_pass(GzidxPass(self.blob, path), None)
        except InvalidImageError as error:
            raise InvalidImageError(f"by the points of {printable_path(path)}: {error}") from None

    def _run_pass(self, reading: Pass, frames: "_Frames | None") -> _Survey:
        hashers = {algorithm: hashlib.new(algorithm) for algorithm in (CANONICAL, self.layer.diff_id.algorithm)}
        works: list[Callable[[Chunk], object]] = [hasher.update for hasher in hashers.values()]
        if not frames:  # spans in frames have digests of their own, and the blob is not read again for them
            works.append(lambda chunk: self.digester.follow(reading.found))
        with reading, tee(self._bounded(reading), *works) as chunks:
            stream = ChunkReader(frames.written(chunks) if frames else chunks)
            toc = TocWriter()
            count: Literal["entries", "members"] = "entries" if self.layer.archive is None else "members"
            for entry in read_entries(stream, limits=self.limits, count=count, warn=self.warn):
                toc.add(entry)
            stream.drain()
            found = {each: Digest(f"{each}:{hasher.hexdigest()}") for each, hasher in hashers.items()}
            _check_diff_id(self.layer, found[self.layer.diff_id.algorithm])
            checkpoints = [] if frames else list(reading.checkpoints())
        return _Survey(toc, tuple(found.values()), stream.offset, checkpoints, reading.untrimmed)

    def _bounded(self, reading: Pass) -> Iterator[Chunk]:
        """Yield the chunks of the pass; raise LimitError when they exceed a limit."""
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
        """Write the windows; return their offsets, or an empty list if there are none."""
        if not any(point.window for point in checkpoints):
            return []
        offsets = []
        for point in checkpoints:
            offsets.append(out.size)
            out.write(point.window)
        return offsets


class _Frames:
    """The stream recompressed as short zstd frames, each of them a span."""

    def __init__(self, out: Writer) -> None:
        self.out = out
        self.checkpoints = [Checkpoint(0, 0)]
        self.digests: list[bytes] = []
        self._compress = zstandard.ZstdCompressor(level=1).compress

    def written(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """Write each chunk, and yield it."""
        start = 0
        for chunk in chunks:
            for position in range(0, len(chunk), CHUNK):
                frame = self._compress(chunk[position : position + CHUNK])
                self.digests.append(hashlib.sha256(frame).digest())
                self.out.write(frame)
                start += min(CHUNK, len(chunk) - position)
                self.checkpoints.append(Checkpoint(start, self.out.size))
            yield chunk
        if not self.digests:  # an empty layer still has one span
            self.digests.append(hashlib.sha256().digest())
            self.checkpoints.append(Checkpoint(0, 0))


def _too_long(begin: Checkpoint, end: Checkpoint) -> bool:
    """Whether the span takes too much memory, or too many compressed bytes that decode to almost nothing."""
    return end.start - begin.start > MAX_SPAN or end.offset - begin.offset > MAX_STORED
