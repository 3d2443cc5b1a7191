"""Verify the hot packs of an image, in the cache and published beside it: compare every block with the layers.

The layers are verified before. A pack names the stream of each of its layers: that of the tar, or of the chunks that a
TOC lists. It may have fewer layers than the image, as that of a base image has.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from ocifs.blobs.download import in_file
from ocifs.blobs.source import Source
from ocifs.errors import InvalidImageError, LimitError, OcifsError, RegistryError, UnsupportedError
from ocifs.hotpack.format import PackTable, read_table, stated_streams
from ocifs.hotpack.verification import verify_frames, verify_pack
from ocifs.image.chain import chain_of
from ocifs.image.hot_pack import PACK, UNVERIFIED_PACK, PackName, streams_of
from ocifs.image.names import subjects_of
from ocifs.indexes.artifact import published_head, published_packs
from ocifs.indexes.candidate import LookupContext
from ocifs.indexes.chunked import promised_tocs
from ocifs.layer.layer import Layer
from ocifs.layer.span_cache import SpanCache
from ocifs.layer.verification import digest_blob
from ocifs.options import Options
from ocifs.reader import ReaderAt
from ocifs.sources.resolve import ResolvedImage
from ocifs.spec.descriptor import Descriptor
from ocifs.store import Store

_PUBLISHED_MAX = 1 << 30
_ARTIFACTS_MAX = 16
"""How many published packs are fetched."""


class PackCheck(NamedTuple):
    """The result for one pack: its contents, or an error."""

    name: str
    """The subject of its entry in the cache, or the digest of the published blob."""
    is_published: bool
    result: "PackTable | OcifsError | OSError"


def verify_packs(
    source: Source, resolved: ResolvedImage, layers: Sequence[Layer], options: Options
) -> Iterator[PackCheck]:
    """Yield the result for each hot pack of an image: those in the cache, and then those published beside it.

    Each of `layers` is verified, with an index of its tar. If the registry does not say what is published, that is a
    warning.
    """
    if not layers:
        return
    with ExitStack() as stack:
        verifier = _PackVerifier(LookupContext(source, resolved, Store(None), options.limits, stack), layers)
        for name in _names(options.store, resolved, layers):
            yield PackCheck(name.subject, is_published=False, result=verifier.cached(options.store, name))
        try:
            for pack in islice(published_packs(source, resolved), _ARTIFACTS_MAX):
                yield PackCheck(str(pack.digest), is_published=True, result=verifier.published(pack))
        except UnsupportedError:  # an archive, beside which nothing is published
            pass
        except OcifsError as error:
            options.warn(f"{resolved.name}: its published hot packs are not verified: {error}")


def _names(store: Store, resolved: ResolvedImage, layers: Sequence[Layer]) -> Iterator[PackName]:
    """Yield the names of the packs in the cache; those of unverified layers are known from the image's last use."""
    chains = [str(chain_of(layers[: count + 1])) for count in range(len(layers))]
    for subject in dict.fromkeys([*chains, *sorted(subjects_of(store, resolved.digest))]):
        for kind in (PACK, UNVERIFIED_PACK):
            if store.has(kind, subject):
                yield PackName(kind, subject)


class _PackVerifier:
    """Compares packs with the layers of an image."""

    def __init__(self, context: LookupContext, layers: Sequence[Layer]) -> None:
        self._context = context
        self._layers = layers

    def cached(self, store: Store, name: PackName) -> "PackTable | OcifsError | OSError":
        """Verify a pack in the cache."""
        try:
            if (file := store.load(*name)) is None:
                raise InvalidImageError("it is damaged in the cache: the next mount that reads the image rebuilds it")
            with closing(file):
                return self._verify(file, None)
        except (OcifsError, OSError) as error:
            return error

    def published(self, pack: Descriptor) -> "PackTable | OcifsError | OSError":
        """Fetch and verify a published pack. Raises RegistryError if the registry cannot be reached."""
        try:
            if pack.size > _PUBLISHED_MAX:
                raise LimitError(f"it has {pack.size} bytes, more than {_PUBLISHED_MAX}")
            head = published_head(pack)
            file = in_file(self._context.source.open(pack))
            if (found := digest_blob(file, pack.digest, lambda size: None)) != pack.digest:
                raise InvalidImageError(f"its bytes have the digest {found}")
            return self._verify(file, head)
        except RegistryError:
            raise
        except (OcifsError, OSError) as error:
            return error

    def _verify(self, file: ReaderAt, head: bytes | None) -> PackTable:
        layers = self._layers_of(stated_streams(file, head))
        table = read_table(file, streams_of(layers), sys.maxsize, head)
        verify_frames(file, table)
        verify_pack(table, layers, lambda size: None)
        return table

    def _layers_of(self, streams: Sequence[str]) -> list[Layer]:
        """Return the layers that have these streams. Raises InvalidImageError."""
        found = [
            layer if layer.index.stream == stream else self._chunked.get((layer.number, stream))
            for layer, stream in zip(self._layers, streams, strict=False)
        ]
        matching = [layer for layer in found if layer is not None]
        if not streams or len(matching) != len(streams):
            raise InvalidImageError("hot pack: it belongs to other layers")
        return matching

    @cached_property
    def _chunked(self) -> dict[tuple[int, str], Layer]:
        """The layers as streams of chunks, by number and stream, as far as the manifest commits to a TOC."""
        found = {}
        for toc in promised_tocs(self._context):
            try:
                index = toc.open()
            except OcifsError:  # `--toc verify` reports that
                continue
            for layer in self._layers:
                if layer.index.summary.blob_digest == toc.layer:
                    found[layer.number, index.stream] = Layer(layer.number, index, layer.blob, SpanCache(0))
        return found
