"""The metadata of an image, and the facts about its layers that the cache holds. Indexes nothing.

Sizes are bytes. Facts that only an index has are None without one.
"""

import os
from collections.abc import Iterator, Sequence

import msgspec

from ocifs.blobs.source import Source
from ocifs.errors import OcifsError
from ocifs.image.kinds import TREE
from ocifs.layer.index import LayerIndex, index_in
from ocifs.layer.index_format import KIND as LAYER_INDEX
from ocifs.report.text import fitted, human_size, table
from ocifs.sources.resolve import ImageLayer, ResolvedImage, manifests_of, resolve_manifest
from ocifs.sources.source import NamedImage
from ocifs.spec.config import ExecutionParameters
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import DiffID, Digest, chain_id
from ocifs.spec.document import shown
from ocifs.spec.mediatypes import INDEXES, describe_non_image
from ocifs.store import Store


class LayerInspection(msgspec.Struct, frozen=True, kw_only=True):
    """A layer."""

    number: int
    """Its position; the base is 0."""
    digest: str
    diff_id: str
    chain_id: str
    media_type: str
    size: int
    indexed: bool
    """Whether the cache holds its LayerIndex."""
    uncompressed: int | None = None
    entries: int | None = None
    """Members of its tar, including whiteouts."""
    whiteouts: int | None = None
    """Including opaque whiteouts."""


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """An image."""

    image: str
    """The reference."""
    digest: str
    """Of the manifest."""
    media_type: str
    platform: str
    created: str
    author: str
    size: int
    """Of all layers, compressed."""
    merged: bool
    """Whether the cache holds the tree image."""
    config_digest: str
    config: ExecutionParameters
    """As in the image config: User, Env, Entrypoint, Cmd, WorkingDir, Labels …"""
    annotations: dict[str, str]
    """Of the manifest."""
    layers: list[LayerInspection]


class ListedImage(msgspec.Struct, frozen=True, kw_only=True):
    """One of the images in a source."""

    position: int
    """The position for `@N`; several images of one index share it."""
    names: list[str]
    digest: str
    platform: str | None = None
    created: str | None = None
    layers: int | None = None
    size: int | None = None
    """Of all layers, compressed."""
    error: str | None = None
    """Why ocifs cannot open it."""


def inspect_image(resolved: ResolvedImage, store: Store) -> Inspection:
    """Describe an image, with the facts that `store` has."""
    config = resolved.config
    return Inspection(
        image=resolved.name,
        digest=str(resolved.digest),
        media_type=resolved.descriptor.media_type,
        platform=str(config.platform),
        created=config.created,
        author=config.author,
        size=sum(layer.descriptor.size for layer in resolved.layers),
        merged=_is_merged(resolved.layers, store),
        config_digest=str(resolved.manifest.config.digest),
        config=config.config,
        annotations=resolved.manifest.annotations,
        layers=[_layer(number, resolved.layers, store) for number in range(len(resolved.layers))],
    )


def _layer(number: int, layers: Sequence[ImageLayer], store: Store) -> LayerInspection:
    layer = layers[number]
    known = LayerInspection(
        number=number,
        digest=str(layer.descriptor.digest),
        diff_id=str(layer.diff_id),
        chain_id=str(chain_id([each.diff_id for each in layers[: number + 1]])),
        media_type=layer.descriptor.media_type,
        size=layer.descriptor.size,
        indexed=False,
    )
    index = _index(layer, store)
    if index is None:
        return known
    try:
        return msgspec.structs.replace(
            known,
            indexed=True,
            uncompressed=index.size,
            entries=index.summary.entries,
            whiteouts=sum(_is_whiteout(path) for _, path in index.paths()),
        )
    finally:
        os.close(index.file.fd)


def _index(layer: ImageLayer, store: Store) -> LayerIndex | None:
    file = store.load(LAYER_INDEX, layer.descriptor.digest)
    return None if file is None else index_in(file, layer.descriptor.digest)


def _is_merged(layers: Sequence[ImageLayer], store: Store) -> bool:
    """Return whether the store has the tree image, which the diff IDs in the LayerIndexes name."""
    diff_ids = []
    for layer in layers:
        index = _index(layer, store)
        if index is None or layer.diff_id not in index.diff_ids:
            diff_ids.append(layer.diff_id)
        else:
            diff_ids.append(DiffID(Digest(index.summary.diff_id)))
        if index is not None:
            os.close(index.file.fd)
    tree = store.load(TREE, chain_id(diff_ids)) if diff_ids else None
    if tree is not None:
        tree.close()
    return tree is not None


def _is_whiteout(path: bytes) -> bool:
    name = path.rstrip(b"/").rpartition(b"/")[2]
    return name.startswith(b".wh.") and (not name.startswith(b".wh..wh.") or name == b".wh..wh..opq")


def list_images(source: Source) -> Iterator[ListedImage]:
    """Yield every image of a source, including all images of an index, or the reason why one cannot be opened."""
    for position, named in enumerate(source.images()):
        try:
            manifests = manifests_of(source, named.descriptor)
        except OcifsError as error:
            yield _unusable(position, named, str(error))
            continue
        if not manifests:
            yield _unusable(position, named, _no_image(named.descriptor))
        for descriptor in manifests:
            name = str(descriptor.digest)
            try:
                resolved = resolve_manifest(source, descriptor, name)
            except OcifsError as error:
                yield _unusable(position, NamedImage(named.names, descriptor), str(error))
                continue
            yield ListedImage(
                position=position,
                names=list(named.names),
                digest=name,
                platform=str(resolved.config.platform),
                created=resolved.config.created,
                layers=len(resolved.layers),
                size=sum(layer.descriptor.size for layer in resolved.layers),
            )


def _no_image(descriptor: Descriptor) -> str:
    if descriptor.media_type in INDEXES:
        return "an image index without images"
    return describe_non_image(descriptor.media_type, descriptor.artifact_type)


def _unusable(position: int, named: NamedImage, error: str) -> ListedImage:
    return ListedImage(position=position, names=list(named.names), digest=str(named.descriptor.digest), error=error)


def facts(image: Inspection) -> list[tuple[str, str]]:
    """Return (name, value) of the facts about the whole image; the value is empty if the image has none."""
    config = image.config
    return [
        ("Image", image.image),
        ("Digest", image.digest),
        ("Media type", image.media_type),
        ("Config", image.config_digest),
        ("Platform", image.platform),
        ("Created", image.created),
        ("Author", image.author),
        ("Entrypoint", _json(config.entrypoint)),
        ("Cmd", _json(config.cmd)),
        ("User", config.user),
        ("Working dir", config.working_dir),
        *(("Env", variable) for variable in config.env),
        *(("Port", port) for port in config.exposed_ports),
        *(("Volume", volume) for volume in config.volumes),
        ("Stop signal", config.stop_signal),
        *(("Label", f"{key}={value}") for key, value in config.labels.items()),
        *(("Annotation", f"{key}={value}") for key, value in image.annotations.items()),
        ("Size", human_size(image.size)),
    ]


def inspection_lines(image: Inspection) -> Iterator[str]:
    """Yield lines for people, without empty facts."""
    previous = ""
    cached = ("Tree image", "in the cache" if image.merged else "not made yet")
    for name, value in (*facts(image), cached):
        if value:
            yield f"{'' if name == previous else name + ':':12} {shown(value, _LONG)}"
            previous = name
    for layer in image.layers:
        yield f"{f'Layer {layer.number}:':12} {layer.digest}"
        yield f"             {shown(layer.media_type)}"
        yield f"             {_known(layer)}"


_LONG = 2000


def _json(words: Sequence[str]) -> str:
    return msgspec.json.encode(words).decode() if words else ""


def _known(layer: LayerInspection) -> str:
    if layer.uncompressed is None:
        return f"{human_size(layer.size)}, not indexed yet"
    size = f"{human_size(layer.size)} -> {human_size(layer.uncompressed)}"
    return f"{size}, entries {layer.entries}, whiteouts {layer.whiteouts}"


def image_lines(images: Sequence[ListedImage], width: int | None = None) -> Iterator[str]:
    """Yield a table, with names cut to a total `width` in columns, and a line for each image that cannot be opened."""
    rows = [("NAME", "PLATFORM", "DIGEST", "LAYERS", "SIZE")]
    for image in images:
        if image.error is None:
            cells = (image.platform or "", str(image.layers), human_size(image.size or 0))
        else:
            cells = ("?", "?", "?")
        rows.append((_name(image), shown(cells[0]), image.digest[:19], cells[1], cells[2]))
    yield from table(fitted(rows, width, elastic=(0,)), right=(3, 4))
    for image in images:
        if image.error is not None:
            yield f"{_name(image)}: {shown(image.error, _LONG)}"


def _name(image: ListedImage) -> str:
    """Return the names of an image, except those that only repeat the end of another."""
    full = [each for each in image.names if not any(other.endswith((f"/{each}", f":{each}")) for other in image.names)]
    return shown(", ".join(full) or f"@{image.position}")
