"""Publish the index of an opened image, and find out whether that has been done."""

from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING, Literal

import click
import msgspec

from ocifs.cli.options import warn
from ocifs.errors import InvalidImageError, OcifsError, counted, printable_path
from ocifs.options import Options
from ocifs.report.text import human_size

if TYPE_CHECKING:
    from ocifs.image.opening import Image
    from ocifs.layer.profile import Profile
    from ocifs.sources.reference import Reference
    from ocifs.spec.digest import Digest

Form = Literal["ocifs", "soci", "soci-v2"]


class Pushed(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome for one image."""

    image: str
    outcome: Literal["pushed", "skipped", "failed"]
    digest: str | None = None
    """Of the manifest."""
    index: str | None = None
    """Digest of the artifact."""
    layers: int | None = None
    size: int | None = None
    """Bytes of the index."""
    reason: str | None = None

    def __str__(self) -> str:
        detail = self.reason or f"{self.index}  {counted(self.layers or 0, 'layer')}  {human_size(self.size or 0)}"
        return f"{self.outcome:7}  {printable_path(self.image)}  {detail}"


def _pack_of(opened: "Image", options: Options) -> bytes | None:
    """Return the hot pack of an image in a form for transport, if the cache has one.

    One that mounts have made of layers that they had not verified is compared with the layers first.
    """
    from ocifs.hotpack.build import compact
    from ocifs.image.hot_pack import has_verified_pack, verified_table

    if not has_verified_pack(options.store, [layer.diff_id for layer in opened.resolved.layers]):
        _adopt_learnt(opened, options)
    if (found := verified_table(options.store, opened.layers)) is None:
        return None
    file, table = found
    try:
        return compact(file, table)
    except InvalidImageError:  # damaged; the next mount makes it again
        return None
    finally:
        file.close()


def _adopt_learnt(opened: "Image", options: Options) -> None:
    """Let a pack that mounts have learnt become that of the verified layers, if it is right."""
    from ocifs.image.hot_pack import adopt_pack
    from ocifs.image.names import subjects_of

    for subject in sorted(subjects_of(options.store, opened.digest)):
        with suppress(OcifsError, OSError):
            if adopt_pack(options.store, opened.layers, subject):
                return


def _profile_of(opened: "Image", options: Options) -> "Profile":
    """Return the spans with the blocks of the image's hot pack; none if the cache has no pack."""
    from ocifs.hotpack.profile import profile_of
    from ocifs.image.hot_pack import verified_table

    if (found := verified_table(options.store, opened.layers)) is None:
        return {}
    file, table = found
    file.close()
    return profile_of(table, opened.layers)


def publish(opened: "Image", image: str, options: Options, form: Form, min_layer_size: int) -> Pushed:
    """Publish the index of the image `image` beside it, as `ocifs` or `soci`."""
    from ocifs.indexes.artifact import INDEX_TYPE, make_artifact
    from ocifs.layer.trimming import trimmed

    if form == "ocifs":
        with ExitStack() as stack:
            indexes = [trimmed(options.store, layer, stack) for layer in opened.layers]
            manifest, blobs = make_artifact(opened.resolved, indexes, _pack_of(opened, options))
        size = sum(blob.descriptor.size for blob in blobs[1:])
        layers = sum(blob.descriptor.media_type == INDEX_TYPE for blob in blobs)
    else:
        from ocifs.indexes.soci_writer import make_soci_index

        profile = _profile_of(opened, options)
        made = make_soci_index(opened.resolved, opened.layers, "soci-v1", min_layer_size, warn, profile)
        manifest, blobs, size, layers = made.manifest, made.blobs, made.size, made.layers
    opened.source.referrers().attach(opened.resolved.descriptor, manifest, blobs)
    return Pushed(
        image=image,
        outcome="pushed",
        digest=opened.digest,
        index=manifest.descriptor.digest,
        layers=layers,
        size=size,
    )


def publish_converted(opened: "Image", options: Options, tag: str, min_layer_size: int) -> None:
    """Write a copy of the image, with the name `tag`, whose manifest commits to its SOCI index; print both digests."""
    from ocifs.indexes.soci_writer import convert_image, make_soci_index

    profile = _profile_of(opened, options)
    made = make_soci_index(opened.resolved, opened.layers, "soci-v2", min_layer_size, warn, profile)
    image, index = convert_image(opened.source, opened.resolved, made)
    opened.source.referrers().put(tag, [made.manifest, image, index], made.blobs)
    click.echo(f"image {tag}  {index.descriptor.digest}")
    click.echo(f"soci-v2  {made.manifest.descriptor.digest}  {counted(made.layers, 'layer')}  {human_size(made.size)}")


def find_published(reference: "Reference", options: Options, form: Form) -> "tuple[Digest, bool]":
    """Return the digest of an image, and whether its index is published in this format, with any stored hot pack.

    Raises:
        OcifsError: The image cannot be resolved, or its artifacts cannot be listed.
    """
    from ocifs.image.hot_pack import has_verified_pack
    from ocifs.image.opening import open_source
    from ocifs.indexes.artifact import indexes_in, list_artifacts
    from ocifs.indexes.soci import TYPES
    from ocifs.sources.resolve import resolve_image

    with closing(open_source(reference, options)) as source:
        resolved = resolve_image(source, reference, options.platform)
        if form != "ocifs":
            return resolved.digest, bool(list_artifacts(source, resolved, TYPES["soci-v1"]))
        has_pack = has_verified_pack(options.store, [layer.diff_id for layer in resolved.layers])
        for artifact in list_artifacts(source, resolved):
            listed = indexes_in(source, artifact, resolved.digest)
            if listed and (not has_pack or any(each.pack for each in listed)):
                return resolved.digest, True
        return resolved.digest, False
