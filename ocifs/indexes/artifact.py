"""LayerIndexes published beside an image's manifest, as one artifact in a registry or an OCI layout.

The layers of the artifact are LayerIndexes in the store's format, each under the digest of its blob. A published index
is validated structurally; only reading the whole blob verifies it. So trees built from it stay apart from verified
ones. Tree images are not published: the kernel mounts them, so they are only made locally.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import msgspec

from ocifs.blobs.download import in_file
from ocifs.blobs.source import Source
from ocifs.errors import InvalidImageError, LimitError, UnsupportedError
from ocifs.hotpack.format import head_digest
from ocifs.indexes.candidate import Candidate, LookupContext, Provider, Runs, read_each
from ocifs.indexes.on_demand import open_with_tail, published_form, tail_of
from ocifs.layer.index import ChunkedIndex, LayerIndex, open_index
from ocifs.layer.index_format import KIND
from ocifs.layer.profile import Prefetch, Run, spans_of
from ocifs.reader import BytesReader, FileReader, FileSection
from ocifs.sources.referrers import NewBlob
from ocifs.sources.resolve import ImageLayer, ResolvedImage
from ocifs.spec.artifact import EMPTY, EMPTY_CONFIG, Artifact, encode_artifact, parse_artifact
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest
from ocifs.spec.document import decode
from ocifs.spec.mediatypes import OCI_MANIFEST

ARTIFACT_TYPE = "application/vnd.ocifs.layer-indexes.v1"
INDEX_TYPE = f"application/vnd.ocifs.layer-index.v{KIND.version}"
PACK_TYPE = "application/vnd.ocifs.hot-pack.v1"
PREFETCH_TYPE = "application/vnd.amazon.soci.prefetch.v1+json"
PACK_HEAD = "vnd.ocifs.hot-pack.head"
"""sha256 of the head of a pack, in hex: so a reader verifies its blocks as they arrive."""
_LAYER = "vnd.ocifs.layer.digest"
_LAYER_SIZE = "vnd.ocifs.layer.size"

_MAX_INDEX = 1 << 30


class PublishedIndex(NamedTuple):
    """A LayerIndex in an artifact, or a document that converts to one."""

    layer: Digest
    """The blob that it claims to describe."""
    descriptor: Descriptor
    prefetch: Descriptor | None = None
    """The document that lists the spans to fetch first."""
    pack: Descriptor | None = None
    """The hot pack of the whole image."""


def make_artifact(
    resolved: ResolvedImage, indexes: list[LayerIndex], pack: bytes | None = None
) -> tuple[NewBlob, list[NewBlob]]:
    """Return the manifest of an artifact with the indexes of an image and its hot pack, and its blobs.

    It leaves out reframed indexes, because they contain a copy of the layer.
    """
    contents: dict[tuple[str, str], NewBlob] = {}
    for layer, index in zip(resolved.layers, indexes, strict=True):
        if not index.summary.reframed:
            data, annotations = published_form(index)
            of_layer = {_LAYER: str(layer.descriptor.digest), _LAYER_SIZE: str(layer.descriptor.size)}
            descriptor = Descriptor(
                media_type=INDEX_TYPE, digest=Digest.of(data), size=len(data), annotations=of_layer | annotations
            )
            contents[layer.descriptor.digest, "index"] = NewBlob(descriptor, BytesReader(data))
    if pack is not None:
        descriptor = Descriptor(
            media_type=PACK_TYPE,
            digest=Digest.of(pack),
            size=len(pack),
            annotations={PACK_HEAD: head_digest(BytesReader(pack)).hex()},
        )
        contents["", "pack"] = NewBlob(descriptor, BytesReader(pack))
    subject = resolved.descriptor
    manifest = Artifact(
        schema_version=2,
        media_type=OCI_MANIFEST,
        artifact_type=ARTIFACT_TYPE,
        config=EMPTY_CONFIG,
        layers=tuple(content.descriptor for content in contents.values()),
        subject=Descriptor(media_type=subject.media_type, digest=subject.digest, size=subject.size),
    )
    data = encode_artifact(manifest)
    descriptor = Descriptor(
        media_type=OCI_MANIFEST, digest=Digest.of(data), size=len(data), artifact_type=ARTIFACT_TYPE
    )
    blobs = [NewBlob(EMPTY_CONFIG, BytesReader(EMPTY)), *contents.values()]
    return NewBlob(descriptor, BytesReader(data)), blobs


def prefetch_document(runs: Iterable[Run]) -> bytes:
    """Return a SOCI prefetch artifact."""
    return msgspec.json.encode(Prefetch(version="1.0", prefetch_spans=tuple(runs)))


def list_artifacts(source: Source, resolved: ResolvedImage, artifact_type: str = ARTIFACT_TYPE) -> list[Descriptor]:
    """Return the index artifacts of an image in a fixed order, the preferred one first.

    The artifact with the most content, such as a hot pack, has the largest manifest.
    """
    artifacts = source.referrers().list_referrers(resolved.descriptor, artifact_type)
    return sorted(artifacts, key=lambda each: (-each.size, each.digest))


def indexes_in(source: Source, artifact: Descriptor, subject: Digest) -> list[PublishedIndex]:
    """Return the content of an artifact.

    Raises:
        InvalidImageError: It is malformed, or belongs to another manifest.
        NotFoundError, RegistryError: It cannot be fetched.
    """
    name = f"index artifact {artifact.digest}"
    document = parse_artifact(source.document(artifact), name)
    if document.subject is None or document.subject.digest != subject:
        raise InvalidImageError(f"{name} belongs to another manifest")
    return listed_in(document, _LAYER, INDEX_TYPE)


def listed_in(document: Artifact, annotation: str, media_type: str) -> list[PublishedIndex]:
    """Return the listed documents of `media_type` with their prefetch artifacts; `annotation` names their layers."""
    packs = [each for each in document.layers if each.media_type == PACK_TYPE]
    of_layers = [each for each in document.layers if annotation in each.annotations]
    prefetch = {each.annotations[annotation]: each for each in of_layers if each.media_type == PREFETCH_TYPE}
    return [
        PublishedIndex(
            Digest(each.annotations[annotation]),
            each,
            prefetch.get(each.annotations[annotation]),
            packs[0] if packs else None,
        )
        for each in of_layers
        if each.media_type == media_type
    ]


def published_packs(source: Source, resolved: ResolvedImage) -> Iterator[Descriptor]:
    """Yield the hot packs published beside an image, each once.

    Raises:
        OcifsError: The artifacts cannot be listed or read.
    """
    seen = set()
    for artifact in list_artifacts(source, resolved):
        for pack in (each.pack for each in indexes_in(source, artifact, resolved.digest)):
            if pack is not None and pack.digest not in seen:
                seen.add(pack.digest)
                yield pack


def published_head(pack: Descriptor) -> bytes:
    """Return the sha256 that the head of a published hot pack has. Raises InvalidImageError."""
    try:
        return bytes.fromhex(pack.annotations[PACK_HEAD])
    except (KeyError, ValueError):
        raise InvalidImageError(f"hot pack {pack.digest}: its descriptor has no valid annotation {PACK_HEAD}") from None


def read_prefetch(source: Source, published: PublishedIndex, index: LayerIndex) -> Runs:
    """Return the spans of a layer to fetch first, if a prefetch artifact lists any; unknown spans are ignored.

    Raises:
        InvalidImageError: It is malformed.
        NotFoundError, RegistryError: It cannot be fetched.
    """
    if published.prefetch is None:
        return ()
    name = f"prefetch profile {published.prefetch.digest}"
    return spans_of(decode(source.document(published.prefetch), Prefetch, name).prefetch_spans, index)


def find(context: LookupContext) -> Iterator[list[Candidate]]:
    """Yield the published LayerIndexes of an image, one artifact at a time.

    Raises:
        OcifsError: The artifacts cannot be listed.
    """
    layers = context.layers()

    def candidates(artifact: Descriptor) -> list[Candidate]:
        listed = indexes_in(context.source, artifact, context.resolved.digest)
        return [_candidate(context, layers[each.layer], each, artifact) for each in listed if each.layer in layers]

    return read_each(candidates, list_artifacts(context.source, context.resolved))


OCIFS = Provider("ocifs", can_bind=False, find=find)


def _open_whole(source: Source, descriptor: Descriptor) -> LayerIndex:
    section = in_file(source.open(descriptor))
    if not isinstance(section, FileSection):  # whose source lists no artifacts
        raise UnsupportedError("an index in a compressed archive is not used")
    return open_index(FileReader(section.fd, section.offset, section.size))


def _candidate(context: LookupContext, layer: ImageLayer, published: PublishedIndex, artifact: Descriptor) -> Candidate:
    def open_candidate() -> LayerIndex:
        if published.descriptor.size > _MAX_INDEX:
            raise LimitError(f"it has {published.descriptor.size} bytes, more than {_MAX_INDEX}")
        tail = tail_of(published.descriptor)
        index = None if tail is None else open_with_tail(context.source, published.descriptor, tail)
        if index is None:
            index = _open_whole(context.source, published.descriptor)
        if isinstance(index, ChunkedIndex):
            raise InvalidImageError("the index does not describe the tar of the layer")
        return context.check(index, layer)

    return Candidate(
        layer=published.layer,
        format=OCIFS.name,
        digest=published.descriptor.digest,
        size=published.descriptor.size,
        bound=False,
        open=open_candidate,
        prefetch=partial(read_prefetch, context.source, published),
        artifact=artifact.digest,
        pack=published.pack,
        is_index=True,
    )
