"""An opened image as records of a store: its layers, its documents, its names, and where it comes from."""

import os
import re
import time
from collections.abc import Iterable
from typing import NamedTuple, get_args

import msgspec
from msgspec.structs import replace

from ocifs.errors import InvalidImageError, NotFoundError, UnsupportedError, printable_path
from ocifs.image.opening import Image
from ocifs.imagestore.records import (
    ImageOrigin,
    ImageRecord,
    LayerRecord,
    compression_number,
    data_file,
    layer_id,
    unverified_layer_id,
)
from ocifs.imagestore.tree import StackedImage, stream_key
from ocifs.layer.layer import Layer
from ocifs.options import Options, TocMode
from ocifs.sources.naming import reference_of
from ocifs.sources.reference import Reference, canonical, unconfigured
from ocifs.spec.digest import CANONICAL, Digest
from ocifs.spec.platform import Platform
from ocifs.spec.rfc3339 import format_time, parse_time

_UNFIT = re.compile(r"[^a-z0-9]+")
_LOCAL = "localhost"
"""Host in the names of images that are in no registry, as podman has it."""
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_NAME = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]+)?/)?"
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
    r"(?::(\w[\w.-]{0,127}))?",
    re.ASCII,
)


class NewImage(NamedTuple):
    """An image as the records of a store have it."""

    record: ImageRecord
    layers: tuple[LayerRecord, ...]
    files: tuple[tuple[str, bytes], ...]
    """Its documents, by the names of their files."""
    origin: ImageOrigin


def stacked(image: Image) -> StackedImage:
    """Return an image with the IDs of its layers.

    A layer on or below one with an unverified index has an ID that nothing but this image of this source has: podman
    trusts the ID in a layer's record, and does not verify its content.
    """
    ids: list[str] = []
    verified = True
    for layer in image.layers:
        parent = ids[-1] if ids else ""
        verified = verified and layer.verification.is_verified
        if verified:
            ids.append(layer_id(parent, Digest(layer.index.summary.diff_id).hex))
        else:
            ids.append(unverified_layer_id(parent, msgspec.json.encode(stream_key(layer))))
    return StackedImage(image, tuple(ids))


def described(each: StackedImage, names: tuple[str, ...]) -> NewImage:
    """Return the records of an image, with these names.

    Raises:
        UnsupportedError: The reference leaves layers out, or nothing can open the image again.
        InvalidImageError: A document does not match its digest.
    """
    image, resolved = each.image, each.image.resolved
    now = format_time(int(time.time()) * 10**9)
    if len(resolved.layers) != len(resolved.manifest.layers):
        raise UnsupportedError(f"{resolved.name} leaves out layers: a store has whole images only")
    manifest = image.source.document(resolved.descriptor)
    config = image.source.document(resolved.manifest.config)
    key = Digest.of(manifest, CANONICAL)
    data = {"manifest": manifest, f"manifest-{key}": manifest, str(resolved.manifest.config.digest): config}
    identity = Digest.of(config, CANONICAL).hex
    record = ImageRecord(
        id=identity,
        digest=str(key),
        names=names,
        layer=each.ids[-1] if each.ids else "",
        metadata="{}",
        data_names=tuple(data),
        data_sizes={name: len(content) for name, content in data.items()},
        data_digests={name: str(Digest.of(content, CANONICAL)) for name, content in data.items()},
        created=_valid_time(resolved.config.created) or now,
    )
    files = tuple((data_file(name), content) for name, content in data.items())
    return NewImage(record, tuple(_layers(each, now)), files, _origin(image, identity))


def _layers(each: StackedImage, now: str) -> Iterable[LayerRecord]:
    verified = True
    for number, (identity, layer) in enumerate(zip(each.ids, each.image.layers, strict=True)):
        parent = each.ids[number - 1] if number else ""
        verified = verified and layer.verification.is_verified
        uids, gids = _owners(layer)
        record = LayerRecord(
            id=identity,
            parent=parent,
            created=now,
            diff_digest=f"{CANONICAL}:{identity}",  # needed for the size; unique if the layer is unverified
            diff_size=layer.size,
            uids=uids,
            gids=gids,
        )
        yield _with_digests(record, layer) if verified else record


def _owners(layer: Layer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the uids and gids of a layer's entries."""
    uids: set[int] = set()
    gids: set[int] = set()
    for entry in layer.index.entries():
        uids.add(entry.uid)
        gids.add(entry.gid)
    return tuple(sorted(uids)), tuple(sorted(gids))


def _with_digests(record: LayerRecord, layer: Layer) -> LayerRecord:
    """Return the record with the digests by which podman finds the layer, which must be verified."""
    summary = layer.index.summary
    codec = summary.compression or summary.codec
    return replace(
        record,
        compressed_digest=str(summary.blob_digest),
        compressed_size=summary.blob_size,
        diff_digest=str(summary.diff_id),
        compression=compression_number(codec),
    )


def _valid_time(text: str) -> str:
    try:
        return format_time(parse_time(text))
    except ValueError:
        return ""


def _origin(image: Image, identity: str) -> ImageOrigin:
    reference, options = image.reference, image.options
    trust = options.trust_index
    if trust is None and reference.digest is None:
        trust = True  # trust as for the tag: the origin has a digest instead
    return ImageOrigin(
        id=identity,
        reference=_pinned(image, reference),
        platform=str(options.platform or ""),
        trust_index=trust,
        toc=options.toc,
        digest=str(image.digest),
    )


def _pinned(image: Image, reference: Reference) -> str:
    """Return a reference that means the same image later. Raises UnsupportedError."""
    if reference.is_stdin:
        raise UnsupportedError("an archive from standard input cannot be opened again: write it to a file")
    return image.source.pinned(reference, image.digest)


def reopened(origin: ImageOrigin, options: Options) -> Image:
    """Open an image of a store again.

    Raises:
        NotFoundError: Its source is gone, or has another image by now.
        OcifsError: As `Image.open`.
    """
    options = replace(options, trust_index=origin.trust_index)
    if origin.platform:
        options = replace(options, platform=Platform.parse(origin.platform))
    if origin.toc in get_args(TocMode):
        options = replace(options, toc=origin.toc)
    image = Image.open(reference_of(origin.reference), options)
    if str(image.digest) != origin.digest:
        image.close()
        raise NotFoundError(f"{printable_path(origin.reference)} is another image now: add it again")
    return image


def names_of(image: Image) -> tuple[str, ...]:
    """Return the names that podman gives to an image of this reference."""
    reference = image.reference
    if reference.transport == "docker":
        full = canonical(unconfigured(reference.path, "")[0])
        return (f"{full}@{reference.digest}" if reference.digest else f"{full}:{reference.tag or 'latest'}",)
    tag = reference.tag or "latest"
    if "/" in tag or ":" in tag:
        return (full_name(tag),)
    base = os.path.basename(os.path.abspath(reference.path))
    stem = base.partition(".")[0] or base
    name = _UNFIT.sub("-", stem.lower()).strip("-") or "image"
    return (f"{_LOCAL}/{name}:{tag if _TAG.fullmatch(tag) else 'latest'}",)


def full_name(name: str) -> str:
    """Return a name as podman keeps it: with a host and a tag. Raises InvalidImageError if it is malformed."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise InvalidImageError(f"malformed name '{printable_path(name)}': write [HOST[:PORT]/]REPOSITORY[:TAG]")
    tagged = name if match[1] else f"{name}:latest"
    first, slash, _ = tagged.partition("/")
    has_host = slash and ("." in first or ":" in first or first == _LOCAL)
    return tagged if has_host else f"{_LOCAL}/{tagged}"
