"""Find damage in a store, without its sources: in its records, its files and its mount."""

import os
from collections import Counter
from collections.abc import Iterator

from ocifs.errors import OcifsError, StoreError
from ocifs.imagestore.directory import TAR_SPLIT, StoreDirectory
from ocifs.imagestore.records import ImageRecord, Records, data_file
from ocifs.tarsplit.entries import decode

_SHOWN = 12


def problems(at: StoreDirectory, *, is_mounted: bool) -> Iterator[str]:
    """Yield each problem, one line; look into the mount only if it `is_mounted`, and thus answers.

    Raises StoreError if our own record is damaged, or another version has made the store: no repair helps.
    """
    own = at.read_own()
    try:
        records = Records(at.read_images(), at.read_layers(), own)
    except StoreError as error:
        yield str(error)
        return
    for image in records.images:
        yield from _of_image(at, records, image)
    yield from _of_names(records)
    pruned = records.pruned()
    if unused := len(records.layers) - len(pruned.layers):
        yield f"layers that no image uses, or without those below them: {unused}"
    if gone := len(records.own.images) - len(pruned.own.images):
        yield f"sources of images that are not in the store: {gone}"
    for layer in pruned.layers:
        yield from _of_tar_split(at, layer.id)
        if is_mounted and not os.path.isdir(os.path.join(at.mountpoint, layer.id, "diff")):
            yield f"layer {layer.id[:_SHOWN]} is not in the mount"


def _of_image(at: StoreDirectory, records: Records, image: ImageRecord) -> Iterator[str]:
    name = f"image {image.id[:_SHOWN]}"
    if image.layer and not records.chain(image.layer):
        yield f"{name} lacks layers"
    if records.origin(image.id) is None:
        yield f"{name} has no source: `ocifs store rm` it, and add it again"
    sizes = at.data_of(image.id)
    for key, size in image.data_sizes.items():
        if sizes.get(data_file(key)) != size:
            yield f"{name} lacks its document {key}"


def _of_names(records: Records) -> Iterator[str]:
    for name, count in Counter(name for image in records.images for name in image.names).items():
        if count > 1:
            yield f"the name {name} means {count} images"
    for identity, count in Counter(image.id for image in records.images).items():
        if count > 1:
            yield f"image {identity[:_SHOWN]} is listed {count} times"


def _of_tar_split(at: StoreDirectory, layer: str) -> Iterator[str]:
    if (problem := damage_of_tar_split(at, layer)) is not None:
        yield problem


def damage_of_tar_split(at: StoreDirectory, layer: str) -> str | None:
    """Return why a layer's tar-split is malformed; None if it is well-formed, or missing."""
    try:
        with at.open_tar_split(layer) as file:
            for _ in decode(file, f"layer {layer[:_SHOWN]}{TAR_SPLIT}"):
                pass
    except FileNotFoundError:
        return None
    except OcifsError as error:
        return str(error)
    return None
