"""Publish the index of an opened image, and find out whether that has been done."""

from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Literal

import click
import msgspec

from ocifs.cli.options import warn
from ocifs.errors import printable_path
from ocifs.options import Options
from ocifs.report.text import human_size

if TYPE_CHECKING:
    from ocifs.image.opening import Image
    from ocifs.sources.reference import Reference
    from ocifs.spec.digest import Digest

Form = Literal["ocifs", "soci", "soci-v2"]


class Pushed(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to one image."""

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
        detail = self.reason or f"{self.index}  {self.layers} layers  {human_size(self.size or 0)}"
        return f"{self.outcome:7}  {printable_path(self.image)}  {detail}"


def publish(opened: "Image", image: str, options: Options, form: Form, min_layer_size: int) -> Pushed:
    """Publish the index of the image `image` beside it, as `ocifs` or `soci`."""
    from ocifs.indexes.artifact import INDEX_TYPE, make_artifact
    from ocifs.indexes.profile import load_profile
    from ocifs.layer.trimming import trimmed

    profile = load_profile(options.store, opened.digest)
    if form == "ocifs":
        with ExitStack() as stack:
            indexes = [trimmed(options.store, layer, stack) for layer in opened.layers]
            manifest, blobs = make_artifact(opened.resolved, indexes, profile)
        size = sum(blob.descriptor.size for blob in blobs[1:])
        layers = sum(blob.descriptor.media_type == INDEX_TYPE for blob in blobs)
    else:
        from ocifs.indexes.soci_writer import make_soci_index

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
    from ocifs.indexes.profile import load_profile
    from ocifs.indexes.soci_writer import convert_image, make_soci_index

    profile = load_profile(options.store, opened.digest)
    made = make_soci_index(opened.resolved, opened.layers, "soci-v2", min_layer_size, warn, profile)
    image, index = convert_image(opened.source, opened.resolved, made)
    opened.source.referrers().put(tag, [made.manifest, image, index], made.blobs)
    click.echo(f"image {tag}  {index.descriptor.digest}")
    click.echo(f"soci-v2  {made.manifest.descriptor.digest}  {made.layers} layers  {human_size(made.size)}")


def find_published(reference: "Reference", options: Options, form: Form) -> "tuple[Digest, bool]":
    """Return the digest of an image, and whether its index is published in this format, with any stored profile.

    Raises:
        OcifsError: The image cannot be resolved, or its artifacts cannot be listed.
    """
    from ocifs.image.opening import open_source
    from ocifs.indexes.artifact import indexes_in, list_artifacts
    from ocifs.indexes.profile import load_profile
    from ocifs.indexes.soci import TYPES
    from ocifs.sources.resolve import resolve_image

    with closing(open_source(reference, options)) as source:
        resolved = resolve_image(source, reference, options.platform)
        if form != "ocifs":
            return resolved.digest, bool(list_artifacts(source, resolved, TYPES["soci-v1"]))
        has_profile = bool(load_profile(options.store, resolved.digest))
        for artifact in list_artifacts(source, resolved):
            listed = indexes_in(source, artifact, resolved.digest)
            if listed and (not has_profile or any(each.prefetch for each in listed)):
                return resolved.digest, True
        return resolved.digest, False
