"""Verify an image: read everything again, and compare it with the digests and with the cache.

The chain: the reference names a manifest by its digest, the manifest names config and blobs, and the config names the
diff IDs. Each blob decodes to the tar stream of its diff ID, through the same spans that reads use. The tar stream has
the entries of the LayerIndex. A new merge of these entries equals the tree image byte for byte. Every block of a hot
pack has the bytes of its layer. Nothing is changed: the next command that needs a damaged entry of the cache rebuilds
it.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from ocifs.blobs.download import Blob, in_file, stop_downloads, stoppable
from ocifs.blobs.source import Source
from ocifs.compression.codecs import CODECS
from ocifs.errors import InvalidImageError, NotFoundError, OcifsError, counted, raise_if_short
from ocifs.hotpack.format import PackTable
from ocifs.image.chain import chain_of
from ocifs.image.kinds import CHANGES, TREE
from ocifs.image.opening import open_source
from ocifs.image.pack_verification import verify_packs
from ocifs.image.trees import Trees, refuse_warnings
from ocifs.indexes.lookup import verify_tocs
from ocifs.layer.build import LayerBlob, open_layer_index
from ocifs.layer.index import LayerIndex, open_index
from ocifs.layer.index_format import KIND
from ocifs.layer.layer import Layer
from ocifs.layer.span_cache import SpanCache
from ocifs.layer.verification import decode_layer, digest_blob
from ocifs.options import Options
from ocifs.pool import Pool
from ocifs.reader import ReaderAt
from ocifs.sources.magic import sniff_layer
from ocifs.sources.naming import reference_of
from ocifs.sources.resolve import ResolvedImage, resolve_image
from ocifs.spec.digest import Digest
from ocifs.spec.mediatypes import Compression
from ocifs.store import Kind, Store

if TYPE_CHECKING:
    from concurrent.futures import Future

What = Literal["manifest", "config", "blob", "layer", "toc", "tree", "changes", "pack", "published-pack"]
_CHUNK = 1 << 20


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The result for one part of an image: verified, or a problem."""

    what: What
    """`layer`: its tar stream and its LayerIndex; `toc`: the TOC inside it; `changes`: the tree image of its changes;
    `pack`: a hot pack in the cache; `published-pack`: one beside the image."""
    digest: str
    """Of the document, blob, TOC or published pack; of a layer the diff ID; of a tree image the chain ID, if it has
    layers; of a hot pack in the cache the subject of its entry."""
    layer: int | None = None
    verified: str = ""
    problem: str | None = None
    """None: the part is correct."""
    at: float = msgspec.field(default_factory=time.time)
    """Time of the check, in seconds since the epoch."""
    indexed: float | None = None
    """Time at which the LayerIndex was built, which verified blob and diff ID as well."""


def verify_image(reference: str, options: Options) -> Iterator[Check]:
    """Yield a check for each part of an image; parts that depend on a wrong one are left out.

    With `options.strict`, warnings are problems. With `options.toc` "verify", so is a TOC in a layer that differs from
    its tar. `options.progress` gets (layer, bytes read, bytes to read); each blob counts twice.

    Raises:
        NotFoundError: The reference names nothing.
        UnsupportedError, LimitError: The image contains something that ocifs does not handle, or too much.
    """
    with ExitStack() as stack:
        parsed = reference_of(reference)
        try:
            source = open_source(parsed, options)
            stack.callback(source.close)
            resolved = resolve_image(source, parsed, options.platform)
        except InvalidImageError as error:
            yield Check(what="manifest", digest="", problem=str(error))
            return
        yield _document("manifest", resolved.digest, resolved.descriptor.size)
        yield _document("config", resolved.manifest.config.digest, resolved.manifest.config.size)
        layers: list[Layer] = []
        spans = SpanCache(options.span_cache)
        for verified in _verified_layers(source, resolved, options, stack):
            yield from verified.checks
            if verified.known is not None and verified.blob is not None:
                layers.append(Layer(len(layers), verified.known, in_file(verified.blob), spans))
        if len(layers) == len(resolved.layers):
            if options.toc == "verify":
                yield from _tocs(source, resolved, layers, options)
            yield from _trees(layers, options, stack)
            yield from _packs(source, resolved, layers, options)


def _document(what: What, digest: Digest, size: int) -> Check:
    return Check(what=what, digest=digest, verified=f"its {size} bytes have that digest")


class _Verified(NamedTuple):
    """The checks of a layer; blob and index are set if it is correct, for later checks."""

    checks: list[Check]
    blob: Blob | None = None
    known: LayerIndex | None = None


def _verified_layers(
    source: Source, resolved: ResolvedImage, options: Options, stack: ExitStack
) -> Iterator[_Verified]:
    """Yield the layers in order; they are verified in parallel, hashing a blob while decoding it."""
    stop = threading.Event()

    def progress(layer: Digest, done: int, total: int) -> None:
        if stop.is_set():
            raise OcifsError("interrupted")
        options.progress(layer, done, total)

    stoppable_options = msgspec.structs.replace(options, progress=progress)
    decoded = options.limits.decoded_total()
    found: dict[tuple[Digest, Digest, Compression], Future[_Verified]] = {}
    opened: list[_Verified | Future[_Verified]] = []
    with (
        Pool(os.cpu_count() or 1) as hashing,
        Pool(os.cpu_count() or 1) as decoding,
        ExitStack() as undo,
    ):
        undo.callback(decoding.shutdown, cancel_futures=True)
        undo.callback(hashing.shutdown, cancel_futures=True)
        blobs: list[Blob] = []
        undo.callback(stop_downloads, blobs)
        undo.callback(stop.set)
        for number, layer in enumerate(resolved.layers):
            try:
                blob = stoppable(source.open(layer.descriptor), stop)
            except (NotFoundError, InvalidImageError) as error:
                opened.append(_Verified([_blob_check(number, layer.descriptor.digest, str(error))]))
                continue
            blobs.append(blob)
            key = (layer.descriptor.digest, layer.diff_id, layer.compression)
            if key not in found:
                of = LayerBlob(layer.descriptor.digest, layer.diff_id, blob, decoded=decoded)
                checking = _LayerCheck(number, of, blob, layer.compression, stoppable_options, stack)
                found[key] = decoding.submit(checking.run, hashing.submit(checking.check_blob))
            opened.append(found[key])
        reported: set[int] = set()
        for each in opened:
            verified = each if isinstance(each, _Verified) else each.result()
            yield verified if id(verified) not in reported else verified._replace(checks=[])
            reported.add(id(verified))
        undo.pop_all()


def _blob_check(number: int, digest: Digest, problem: str | None, size: int = 0) -> Check:
    return Check(
        what="blob", digest=digest, layer=number, problem=problem,
        verified="" if problem else f"its {size} bytes have that digest",
    )  # fmt: skip


def _problem(error: OcifsError | OSError) -> str:
    """Return what is wrong with a part of the image. Raises ShortageError, which says nothing about it."""
    raise_if_short(error)
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


class _LayerCheck:
    """The verification of one layer."""

    def __init__(
        self, number: int, layer: LayerBlob, blob: Blob, stated: Compression, options: Options, stack: ExitStack
    ) -> None:
        self.number = number
        self.layer = layer
        self.blob = blob
        self.stated = stated
        """The compression of its media type."""
        self.options = options
        self._stack = stack
        self._done = 0

    def run(self, blob: "Future[Check]") -> _Verified:
        """Verify that the blob decodes to the stream of the diff ID and of the LayerIndex."""
        index = None
        try:
            index, verified = self._verify()
            if self.options.strict:
                warnings = index.warnings(self.stated)
                refuse_warnings("layer", len(warnings), *warnings[:1])
            check = Check(
                what="layer", digest=self.layer.diff_id, layer=self.number, verified=verified, indexed=index.made
            )
        except (OcifsError, OSError) as error:
            check = Check(what="layer", digest=self.layer.diff_id, layer=self.number, problem=_problem(error))
            index = None
        checks = [blob.result(), check]
        self._advance(2 * self.layer.blob.size)  # headers and padding are in no span
        return _Verified(checks, self.blob, None if any(each.problem for each in checks) else index)

    def check_blob(self) -> Check:
        """Read the blob from front to end and compare its digest."""
        digest = self.layer.digest
        try:
            found = digest_blob(self.layer.blob, digest, self._advance)
        except (OcifsError, OSError) as error:
            return _blob_check(self.number, digest, _problem(error))
        problem = None if found == digest else f"its bytes have the digest {found}"
        return _blob_check(self.number, digest, problem, self.layer.blob.size)

    def _verify(self) -> tuple[LayerIndex, str]:
        """Return the LayerIndex, and a description of the verified facts."""
        store = self.options.store
        file = store.load(KIND, self.layer.digest)
        if file is None and store.has(KIND, self.layer.digest):
            raise InvalidImageError(
                "its LayerIndex in the cache is damaged: the next command that needs it rebuilds it"
            )
        if file is None:
            index = open_layer_index(self.layer, Store(None), self.options.limits, lambda message: None, self._building)
            self._stack.callback(os.close, index.file.fd)
            return index, f"decodes to {index.size} bytes of that digest; it has no LayerIndex in the cache"
        self._stack.callback(file.close)
        index = open_index(file)
        self._check_summary(index)
        if index.summary.reframed:
            self._check_whole()
        if not self._check_spans(index):
            raise InvalidImageError("the LayerIndex in the cache has other entries than the tar stream")
        return index, (
            f"decodes to {index.size} bytes of that digest, in {counted(index.span_count, 'span')} of the LayerIndex; "
            f"it has the same {counted(index.summary.entries, 'entry', 'entries')}"
        )

    def _building(self, layer: Digest, done: int, total: int) -> None:
        self.options.progress(layer, done + total, 2 * total)

    def _check_summary(self, index: LayerIndex) -> None:
        reported = (index.summary.blob_digest, index.summary.blob_size)
        if reported != (self.layer.digest, self.layer.blob.size):
            raise InvalidImageError(f"the LayerIndex in the cache is of a blob {reported[0]} of {reported[1]} bytes")

    def _check_whole(self) -> None:
        """Decode the blob from front to end, if the index reads spans from a copy."""
        hasher = self.layer.diff_id.hasher()
        codec = CODECS[sniff_layer(self.layer.blob, "it")]
        with codec.passes(self.layer.blob, lambda message: None, self.options.limits)[-1]() as reading:
            for chunk in reading.chunks():
                hasher.update(chunk)
        self._check_diff_id(Digest(f"{self.layer.diff_id.algorithm}:{hasher.hexdigest()}"))

    def _check_spans(self, index: LayerIndex) -> bool:
        """Decode each span; return whether the resulting tar stream has the entries of the index."""
        layer = Layer(self.number, index, in_file(self.blob), SpanCache(0))
        done = (lambda size: None) if index.summary.reframed else self._advance
        digests, has_entries = decode_layer(layer, (self.layer.diff_id, *index.diff_ids), done, self.options.limits)
        self._check_diff_id(digests[self.layer.diff_id.algorithm])
        for diff_id in index.diff_ids:
            if diff_id not in digests.values():
                raise InvalidImageError(f"the LayerIndex in the cache has the diff ID {diff_id}")
        return has_entries

    def _check_diff_id(self, found: Digest) -> None:
        if found != self.layer.diff_id:
            raise InvalidImageError(f"it decodes to bytes with the digest {found}")

    def _advance(self, size: int) -> None:
        self._done += size
        total = 2 * self.layer.blob.size
        self.options.progress(self.layer.digest, min(self._done, total), total)


def _tocs(source: Source, resolved: ResolvedImage, layers: Sequence[Layer], options: Options) -> Iterator[Check]:
    for number, candidate, error in verify_tocs(source, resolved, layers, options):
        yield Check(
            what="toc", digest=candidate.digest, layer=number, problem=None if error is None else str(error),
            verified="" if error else f"{candidate.format}: agrees with the tar",
        )  # fmt: skip


def _packs(source: Source, resolved: ResolvedImage, layers: Sequence[Layer], options: Options) -> Iterator[Check]:
    for name, is_published, result in verify_packs(source, resolved, layers, options):
        what: What = "published-pack" if is_published else "pack"
        if isinstance(result, PackTable):
            blocks = sum(len(frame.blocks) for frame in result.frames)
            verified = f"its {blocks} blocks with {result.size} bytes in total equal those of the layers"
            yield Check(what=what, digest=name, verified=verified)
        else:
            yield Check(what=what, digest=name, problem=_problem(result))


def _trees(layers: Sequence[Layer], options: Options, stack: ExitStack) -> Iterator[Check]:
    """Yield a check for each tree image of the layers in the cache, and for the whole tree in any case."""
    fresh = Trees(layers, Store(None), lambda message: None, limits=options.limits, strict=options.strict)
    stack.callback(fresh.close)
    if not layers:
        yield _tree(TREE, 0, "", fresh, Store(None))  # it is never cached
    for count in range(1, len(layers) + 1):
        chain = chain_of(layers[:count])
        if options.store.has(CHANGES, chain):
            yield _tree(CHANGES, count, chain, fresh, options.store)
        if count == len(layers) or options.store.has(TREE, chain):
            yield _tree(TREE, count, chain, fresh, options.store)


def _tree(kind: Kind, count: int, chain: str, fresh: Trees, store: Store) -> Check:
    what: What = "tree" if kind == TREE else "changes"
    number = count - 1 if count else None
    try:
        tree = (fresh.as_of(count) if kind == TREE else fresh.changes(count - 1)).tree
        verified = f"{tree.inode_count} inodes, {tree.size} bytes; the cache has none to compare with"
        if store.has(kind, chain):
            file = store.load(kind, chain)
            if file is None:
                raise InvalidImageError("it is damaged in the cache: the next command that needs it rebuilds it")
            try:
                _compare(file, tree.size, tree.read)
            finally:
                file.close()
            verified = f"{tree.inode_count} inodes; its {tree.size} bytes equal those of a new merge"
    except (OcifsError, OSError) as error:
        return Check(what=what, digest=chain, layer=number, problem=_problem(error))
    return Check(what=what, digest=chain, layer=number, verified=verified)


def _compare(file: ReaderAt, size: int, read: Callable[[int, int], bytes]) -> None:
    equal = file.size == size and all(
        file.pread(_CHUNK, offset) == read(min(_CHUNK, size - offset), offset) for offset in range(0, size, _CHUNK)
    )
    if not equal:
        raise InvalidImageError("the cached tree differs from a new merge")
